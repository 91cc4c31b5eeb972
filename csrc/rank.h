/* Means over a window of ranks, coordinate by coordinate, for one precision. Part of a body file (isa.h); included once per
 * precision with the names that robust_body.h defines.
 *
 * Formula: y_c = (s_lo + .. + s_(lo + window - 1)) / divisor, s the n values of coordinate c in ascending order, where every
 *          value that is not finite counts as +inf. lo is `first`, or for `moves` > 0 one of first .. first + moves: the
 *          window moves up while the value that it would gain is nearer to the median m than the one that it would lose,
 *          s_(lo + window) - m < m - s_lo, which ends at the window of the values nearest to m.
 * Cost:    one read of x. A tile of n x VECTORS vectors is sorted column by column (sort.h) while the next one is
 *          prefetched; a move costs as much as about ten comparators.
 * Order:   ascending rank, so the order of the vectors does not matter to a bit; in double for float, compensated
 *          (TwoSum) for double.
 *
 * Values are compared as integers: x >= 0 keeps its bits, x < 0 has all but the sign flipped. That is the order of the
 * reals with -0 before +0: no two different values ever tie, and NaN cannot reach a comparison.
 */
#include "sort.h"

enum { TN(PARTS) = sizeof(KEY) / sizeof(KEYS) }; /* gcc takes vectors wider than the machine's apart when it compares them */

FGD_INLINE KEY TN(key)(KEY bits)
{
    return bits ^ ((bits >> SIGN_SHIFT) & MAGNITUDE);
}

/* `width` columns of n rows as keys, in VECTORS columns of `height` keys; adds the values that are not finite to `count`. */
FGD_INLINE void TN(load_keys)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t width, int64_t row, KEY *tile,
                              int64_t height, KEY *count, const int32_t dtype)
{
    int64_t item = fgd_itemsize(dtype);
    for (int64_t i = row; i < n; i++) {
        const char *p = fgd_row(layer, i) + lo * item;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++, p += LANES * item) {
            __builtin_prefetch(p + RANK_AHEAD);
            int64_t left = width - v * LANES;
            LANES_OF x = left >= LANES ? LOAD(p, dtype) : LOAD_TAIL(p, dtype, FGD_MAX(left, 0));
            KEYS part[TN(PARTS)], *c = (KEYS *)(count + v);
            memcpy(part, &x, sizeof part);
            for (int h = 0; h < TN(PARTS); h++) {
                KEYS bits = part[h], bad = (bits & INFINITE) == INFINITE;
                c[h] -= bad;
                bits = (bits & ~bad) | (bad & INFINITE);
                part[h] = bits ^ ((bits >> SIGN_SHIFT) & MAGNITUDE);
            }
            memcpy(tile + v * height + i, part, sizeof part);
        }
    }
}

/* The first of `width` columns with more than `tolerated` values that are not finite, or -1. */
FGD_INLINE int64_t TN(first_broken)(const KEY *count, int64_t width, int64_t tolerated)
{
    const KEYS *part = (const KEYS *)count;
    KEYS over = {0};
    for (int h = 0; h < VECTORS * (int)(sizeof(KEY) / sizeof(KEYS)); h++)
        over |= part[h] > (SIGNED)tolerated;
    SIGNED any = 0;
    for (int l = 0; l < (int)(sizeof over / sizeof any); l++)
        any |= over[l];
    if (any == 0)
        return -1;
    for (int64_t c = 0; c < width; c++)
        if (count[c / LANES][c % LANES] > tolerated)
            return c;
    return -1;
}

/* The windows of a tile's columns: ranks start .. start + window - 1, where first <= start <= first + moves. */
typedef struct {
    const KEY *tile;
    int64_t height, lo, first, window, moves;
    double divisor;
    KEY start[VECTORS];
} TN(windows);

/* a / 2 + b / 2 in double, up to a power of two common to all. */
FGD_INLINE void TN(middle)(KEY a, KEY b, WIDE *result)
{
    PART x[sizeof(KEY) / sizeof(PART)], y[sizeof(KEY) / sizeof(PART)];
    a = TN(key)(a);
    b = TN(key)(b);
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
#pragma GCC unroll 4
    for (int h = 0; h < (int)(sizeof(KEY) / sizeof(PART)); h++)
        result[h] = MIDDLE(__builtin_convertvector(x[h], WIDE), __builtin_convertvector(y[h], WIDE));
}

/* Move the window of each lane up. Gains ascend and losses descend, so the moves that pay are the first ones: count them. */
static KEY TN(count_moves)(const KEY *s, int64_t n, int64_t window, int64_t moves)
{
    WIDE median[LANES * sizeof(double) / sizeof(WIDE)], middle[LANES * sizeof(double) / sizeof(WIDE)];
    WIDE_KEYS count[LANES * sizeof(double) / sizeof(WIDE)];
    int64_t lane[LANES];
    memset(count, 0, sizeof count);
    TN(middle)(s[(n - 1) / 2], s[n / 2], median);
    for (int64_t r = 0; r < moves; r++) {
        TN(middle)(s[r], s[r + window], middle);
#pragma GCC unroll 4
        for (int h = 0; h < (int)(sizeof count / sizeof *count); h++)
            count[h] -= middle[h] < median[h];
    }
    memcpy(lane, count, sizeof lane);
    KEY result;
    for (int l = 0; l < LANES; l++)
        result[l] = (SIGNED)lane[l];
    return result;
}

/* The key of rank r, or of -0 where r is outside the lane's window. */
FGD_INLINE KEY TN(inside)(KEY key, KEY start, int64_t r, int64_t window)
{
    KEYS *part = (KEYS *)&key, *from = (KEYS *)&start;
    for (int h = 0; h < TN(PARTS); h++)
        part[h] |= (from[h] > (SIGNED)r) | (from[h] <= (SIGNED)(r - window));
    return key;
}

static long double TN(rescue_ranks)(const void *context, int64_t column)
{
    const TN(windows) *w = context;
    int64_t at = column - w->lo, start = w->start[at / LANES][at % LANES];
    long double sum = -0.0L;
    for (int64_t r = start; r < start + w->window; r++)
        sum += ((LANES_OF)TN(key)(w->tile[at / LANES * w->height + r]))[at % LANES];
    return sum / w->divisor;
}

/* Sum the windows of a sorted tile and write the means of `width` columns. */
static void TN(write_means)(const TN(windows) *w, int64_t width, const fgd_layer *out)
{
    ACC acc[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        TN(start)(acc + v);
    int64_t last = w->first + w->moves; /* the latest start */
    for (int64_t r = w->first; r < last + w->window; r++) {
        int sure = r >= last && r < w->first + w->window;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            KEY key = w->tile[v * w->height + r];
            TN(add)(acc + v, (LANES_OF)TN(key)(sure ? key : TN(inside)(key, w->start[v], r, w->window)), 1.0);
        }
    }
    for (int v = 0; v * LANES < width; v++)
        TN(store)(acc + v, w->divisor, (char *)fgd_row(out, 0), out->dtype, w->lo + v * LANES,
                  FGD_MIN(LANES, width - v * LANES), TN(rescue_ranks), w);
}

/* Columns [lo, hi) of a layer whose first coordinate is `offset`. */
static void TN(segment_ranks)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t hi, int64_t offset, KEY *tile,
                              int64_t first, int64_t window, int64_t moves, double divisor, int64_t tolerated,
                              const fgd_layer *out, fgd_job *job)
{
    int64_t height = (n + 15) / 16 * 16, last = first + window + moves - 1;
    for (int v = 0; v < VECTORS; v++)
        for (int64_t i = n; i < height; i++)
            tile[v * height + i] = (KEY){0} + INFINITE; /* fill the last group of 16: these stay behind the others */
    for (int64_t c = lo; c < hi; c += VECTORS * LANES) {
        int64_t width = FGD_MIN(VECTORS * LANES, hi - c);
        KEY count[VECTORS];
        memset(count, 0, sizeof count);
        for (int64_t end = 16; end <= height; end += 16) {
            FOR_DTYPE(layer->dtype, width == VECTORS * LANES, TN(load_keys), layer, FGD_MIN(end, n), c, width, end - 16, tile,
                      height, count);
            for (int v = 0; v * LANES < width; v++)
                for (int h = 0; h < TN(PARTS); h++)
                    TN(sort_group)((KEYS *)(tile + v * height) + h, TN(PARTS), end, height, first, last);
        }
        int64_t broken = TN(first_broken)(count, width, tolerated);
        if (broken >= 0)
            fgd_lower(&job->broken, offset + c + broken);
        TN(windows) w = {tile, height, c, first, window, moves, divisor, {{0}}};
        for (int v = 0; v < VECTORS; v++)
            w.start[v] = (SIGNED)first + TN(count_moves)(tile + v * height, n, window, moves);
        TN(write_means)(&w, width, out);
    }
}
