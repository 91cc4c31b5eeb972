/* Means over a range of ranks, coordinate by coordinate, for one precision. Part of a body file (isa.h); included once per
 * precision with the names that robust_body.h defines.
 *
 * Formula: y_c = (s_first + .. + s_last) / divisor, s the n values of coordinate c in ascending order, where every value
 *          that is not finite counts as +inf.
 * Cost:    one read of x. A tile of n x VECTORS vectors stays in the first-level cache while the next one is prefetched;
 *          groups of 16 rows are sorted in registers, then `length` comparators (two min/max operations each, per LANES
 *          coordinates) merge them in memory as far as the wanted ranks need.
 * Order:   ascending rank, so the order of the vectors does not matter to a bit; in double for float, compensated
 *          (TwoSum) for double.
 *
 * Values are compared as integers: x >= 0 keeps its bits, x < 0 has all but the sign flipped. That is the order of the
 * reals with -0 before +0: no two different values ever tie, and NaN cannot reach a comparison.
 */

FGD_INLINE KEY TN(key)(KEY bits)
{
    return bits ^ ((bits >> SIGN_SHIFT) & MAGNITUDE);
}

/* `width` columns of all rows as keys; adds the values that are not finite to `count`, column by column. */
FGD_INLINE void TN(load_keys)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t width, KEY *tile, KEY *count,
                              const int32_t dtype)
{
    int64_t item = fgd_itemsize(dtype);
    for (int64_t i = 0; i < n; i++, tile += VECTORS) {
        const char *p = fgd_row(layer, i) + lo * item;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++, p += LANES * item) {
            __builtin_prefetch(p + RANK_AHEAD);
            int64_t left = width - v * LANES;
            LANES_OF x = left >= LANES ? LOAD(p, dtype) : LOAD_TAIL(p, dtype, FGD_MAX(left, 0));
            /* In parts as wide as the machine's registers: gcc takes wider comparisons apart, element by element. */
            KEYS part[sizeof(KEY) / sizeof(KEYS)], *c = (KEYS *)(count + v);
            memcpy(part, &x, sizeof part);
            for (int h = 0; h < (int)(sizeof(KEY) / sizeof(KEYS)); h++) {
                KEYS bits = part[h], bad = (bits & INFINITE) == INFINITE;
                c[h] -= bad;
                bits = (bits & ~bad) | (bad & INFINITE);
                part[h] = bits ^ ((bits >> SIGN_SHIFT) & MAGNITUDE);
            }
            memcpy(tile + v, part, sizeof part);
        }
    }
}

/* Merge the sorted groups as far as the network does: comparator (i, j) leaves the smaller key in row i. */
static void TN(merge)(KEY *tile, const int32_t *network, int64_t length)
{
    for (int64_t c = 0; c < length; c++) {
        KEYS *low = (KEYS *)(tile + VECTORS * network[2 * c]), *high = (KEYS *)(tile + VECTORS * network[2 * c + 1]);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS * (int)(sizeof(KEY) / sizeof(KEYS)); v++) {
            KEYS a = low[v], b = high[v];
            low[v] = KEYS_MIN(a, b);
            high[v] = KEYS_MAX(a, b);
        }
    }
}

/* Sort 16 rows completely, in registers: Green's network of 60 comparators. */
static void TN(sort_16)(KEY *tile)
{
    const int stride = VECTORS * (int)(sizeof(KEY) / sizeof(KEYS));
    for (int v = 0; v < stride; v++) {
        KEYS *row = (KEYS *)tile + v, r[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            r[i] = row[i * stride];
#define C(i, j)                        \
    {                                  \
        KEYS a = r[i], b = r[j];       \
        r[i] = KEYS_MIN(a, b);         \
        r[j] = KEYS_MAX(a, b);         \
    }
        C(0, 13) C(1, 12) C(2, 15) C(3, 14) C(4, 8) C(5, 6) C(7, 11) C(9, 10)
        C(0, 5) C(1, 7) C(2, 9) C(3, 4) C(6, 13) C(8, 14) C(10, 15) C(11, 12)
        C(0, 1) C(2, 3) C(4, 5) C(6, 8) C(7, 9) C(10, 11) C(12, 13) C(14, 15)
        C(0, 2) C(1, 3) C(4, 10) C(5, 11) C(6, 7) C(8, 9) C(12, 14) C(13, 15)
        C(1, 2) C(3, 12) C(4, 6) C(5, 7) C(8, 10) C(9, 11) C(13, 14)
        C(1, 4) C(2, 6) C(5, 8) C(7, 10) C(9, 13) C(11, 14)
        C(2, 4) C(3, 6) C(9, 12) C(11, 13)
        C(3, 5) C(6, 8) C(7, 9) C(10, 12)
        C(3, 4) C(5, 6) C(7, 8) C(9, 10) C(11, 12)
        C(6, 7) C(8, 9)
#undef C
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            row[i * stride] = r[i];
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

/* One column of a sorted tile again, where the sum in double overflowed. */
typedef struct {
    const KEY *tile;
    int64_t first, last, lo;
    double divisor;
} TN(ranks);

static long double TN(rescue_ranks)(const void *context, int64_t column)
{
    const TN(ranks) *c = context;
    int64_t at = column - c->lo;
    long double sum = -0.0L;
    for (int64_t r = c->first; r <= c->last; r++)
        sum += ((LANES_OF)TN(key)(c->tile[r * VECTORS + at / LANES]))[at % LANES];
    return sum / c->divisor;
}

/* Columns [lo, hi) of a layer whose first coordinate is `offset`. */
static void TN(segment_ranks)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t hi, int64_t offset, KEY *tile,
                              const int32_t *network, int64_t length, int64_t first, int64_t last, double divisor,
                              int64_t tolerated, const fgd_layer *out, fgd_job *job)
{
    for (int64_t v = n * VECTORS; v < (n + 15) / 16 * 16 * VECTORS; v++)
        tile[v] = (KEY){0} + INFINITE; /* fill the last group of 16: these stay behind the others */
    for (int64_t c = lo; c < hi; c += VECTORS * LANES) {
        int64_t width = FGD_MIN(VECTORS * LANES, hi - c);
        KEY count[VECTORS];
        memset(count, 0, sizeof count);
        FOR_DTYPE(layer->dtype, width == VECTORS * LANES, TN(load_keys), layer, n, c, width, tile, count);
        int64_t broken = TN(first_broken)(count, width, tolerated);
        if (broken >= 0)
            fgd_lower(&job->broken, offset + c + broken);
        for (int64_t i = 0; i < n; i += 16)
            TN(sort_16)(tile + i * VECTORS);
        TN(merge)(tile, network, length);
        for (int v = 0; v * LANES < width; v++) {
            ACC acc;
            TN(start)(&acc);
            for (int64_t r = first; r <= last; r++)
                TN(add)(&acc, (LANES_OF)TN(key)(tile[r * VECTORS + v]), 1.0);
            TN(ranks) context = {tile, first, last, c, divisor};
            TN(store)(&acc, divisor, (char *)fgd_row(out, 0), out->dtype, c + v * LANES, FGD_MIN(LANES, width - v * LANES),
                      TN(rescue_ranks), &context);
        }
    }
}
