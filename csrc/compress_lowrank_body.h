/* PowerSGD for one instruction set (isa.h): three passes over the matrix M = p, and the orthogonalisation between the first two.
 *
 * The passes share a shape: a few rows at a time, columns in tiles that stay in the first-level cache, factors in groups of up to
 * four columns whose entries stay in registers. docs/wire.md fixes every sum.
 */
#include "rows.h"
#include "compress.h"
#include "rng.h"

/* ---- vectors as wide as the machine's registers: floats, and doubles */

#if FGD_LEVEL == 2
#define VEC v16f
#define WIDTH 16
#define WIDE v8d
#define NARROW v8f /* as many floats */
#define DOUBLES 8
#define MASK v16i
#define LARGER(a, b) (v16i) _mm512_max_epi32((__m512i)(a), (__m512i)(b))
#define LEFT_ROWS 4
#define FIRST_ROWS 2
#elif FGD_LEVEL == 1
#define VEC v8f
#define WIDTH 8
#define WIDE v4d
#define NARROW v4f /* as many floats */
#define DOUBLES 4
#define MASK v8si
#define LARGER(a, b) (v8si) _mm256_max_epi32((__m256i)(a), (__m256i)(b))
#define LEFT_ROWS 1
#define FIRST_ROWS 1
#else
#define VEC v4f
#define WIDTH 4
#define WIDE v2d
#define NARROW v2f
#define DOUBLES 2
#define MASK v4si
#define LARGER(a, b) FN(larger)(a, b)
#define LEFT_ROWS 1
#define FIRST_ROWS 1
#endif

enum { FN(LANE_PARTS) = FGD_ROW_LANES / WIDTH, FN(WIDE_PARTS) = 8 / DOUBLES };

#if FGD_LEVEL == 0
FGD_INLINE v4si FN(larger)(v4si a, v4si b)
{
    v4si pick = a > b;
    return (a & pick) | (b & ~pick);
}
#endif

FGD_INLINE VEC FN(load)(const float *p)
{
    VEC v;
    memcpy(&v, p, sizeof v);
    return v;
}

FGD_INLINE WIDE FN(load_wide)(const double *p)
{
    WIDE v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Eight lanes, folded in halves. */
FGD_INLINE double FN(fold_wide)(const WIDE *sum)
{
    double lane[8];
    memcpy(lane, sum, sizeof lane);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* ---- the matrix */

/* The largest bits of |p_i|: their order is that of the magnitudes, Inf and NaN above all numbers. */
FGD_INLINE uint32_t FN(peak)(const float *p, int64_t count, uint32_t peak)
{
    int32_t most = (int32_t)peak;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, p + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return (uint32_t)most;
}

/* `count` elements of M from `lo` on, times the power of two `unit`: where they lie, if they lie anywhere, else in `buffer`. In
 * FEEDBACK the first one to ask (`fresh`) makes them in the memory. */
FGD_INLINE const float *FN(elements)(const fgd_lowrank *w, int64_t lo, int64_t count, int fresh, float *buffer)
{
    const fgd_vector *x = w->x;
    const float *p = buffer;
    if (w->mode == FGD_FEEDBACK) {
        float *m = w->memory + lo;
        p = m;
        if (fresh) {
            const float *g = (const float *)x->data + lo;
            if (x->dtype != FGD_F32) {
                FN(load_block)(x, lo, count, buffer);
                g = buffer;
            }
            for (int64_t i = 0; i < count; i++)
                m[i] += g[i];
        }
    } else if (w->mode == FGD_PLAIN && x->dtype == FGD_F32)
        p = (const float *)x->data + lo;
    else
        FN(begin_block)(x, w->memory, w->mode, lo, count, buffer);
    if (w->unit != 1.0f) {
        for (int64_t i = 0; i < count; i++)
            buffer[i] = p[i] * w->unit;
        p = buffer;
    }
    return p;
}

/* ---- first pass */

/* Lane l adds lane l + 8, then l + 4, 2, 1, in double. */
FGD_INLINE double FN(fold_row)(const VEC *sum)
{
    NARROW part[FGD_ROW_LANES / DOUBLES];
    WIDE wide[FN(WIDE_PARTS)];
    memcpy(part, sum, sizeof part);
#pragma GCC unroll 4
    for (int h = 0; h < FN(WIDE_PARTS); h++)
        wide[h] = __builtin_convertvector(part[h], WIDE) + __builtin_convertvector(part[h + FN(WIDE_PARTS)], WIDE);
    return FN(fold_wide)(wide);
}

/* total[r + k stride] += a chunk of row r times a chunk of column k of Q. The turn of the `first` ranks finds the peak and
 * fetches ahead; with `adds`, and only then, it writes the rows: m + g, the rows of g being as far apart as those of M. */
FGD_INLINE void FN(row_products)(const int R, const int K, const int first, const int adds, const fgd_lowrank *w,
                                 float *const *row, const float *g, const float *q, int64_t count, double *total,
                                 uint32_t *peak)
{
    VEC sum[4][4][FN(LANE_PARTS)];
    MASK most = {0};
    int64_t j = 0, columns = w->columns, pitch = w->pitch, ahead = fgd_ahead(columns);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
#pragma GCC unroll 4
            for (int h = 0; h < FN(LANE_PARTS); h++)
                sum[r][k][h] = (VEC){0};
    for (; j + FGD_ROW_LANES <= count; j += FGD_ROW_LANES) {
#pragma GCC unroll 4
        for (int h = 0; h < FN(LANE_PARTS); h++) {
            VEC y[4];
            int64_t at = j + h * WIDTH;
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                y[r] = FN(load)(row[r] + at);
                if (first && h == 0)
                    __builtin_prefetch(row[r] + at + ahead, 0, 2);
                if (adds && h == 0)
                    __builtin_prefetch(g + r * columns + at + ahead, 0, 2);
                if (adds)
                    y[r] += FN(load)(g + r * columns + at);
            }
#pragma GCC unroll 4
            for (int r = 0; r < R && first; r++) { /* no store before the last load: rows often lie a power of two apart */
                if (adds)
                    memcpy(row[r] + at, y + r, sizeof *y);
                most = LARGER(most, (MASK)y[r] & 0x7fffffff);
            }
#pragma GCC unroll 4
            for (int k = 0; k < K; k++) {
                VEC v = FN(load)(q + k * pitch + at);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
                    sum[r][k][h] += y[r] * v;
            }
        }
    }
    int64_t rest = count % FGD_ROW_LANES;
    if (rest) { /* zeros follow a row's end: they change no sum, as no sum is -0 */
        float y[FGD_ROW_LANES] = {0}, v[FGD_ROW_LANES] = {0};
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            for (int64_t t = j; t < count && adds; t++)
                row[r][t] += g[r * columns + t];
            if (first)
                *peak = FN(peak)(row[r] + j, rest, *peak);
            memcpy(y, row[r] + j, (size_t)rest * sizeof *y);
#pragma GCC unroll 4
            for (int k = 0; k < K; k++) {
                memcpy(v, q + k * pitch + j, (size_t)rest * sizeof *v);
#pragma GCC unroll 4
                for (int h = 0; h < FN(LANE_PARTS); h++)
                    sum[r][k][h] += FN(load)(y + h * WIDTH) * FN(load)(v + h * WIDTH);
            }
        }
    }
    if (first)
        *peak = FN(peak)((const float *)&most, WIDTH, *peak);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            total[r + k * w->stride] += FN(fold_row)(sum[r][k]);
}

/* R rows, S at a time while their first products are made: those take more registers. */
FGD_INLINE void FN(row_group)(const int R, const int S, const fgd_lowrank *w, int64_t i, uint32_t *peak)
{
    float buffer[4][FGD_ROW_CHUNK] __attribute__((aligned(64)));
    float *row[4];
    int adds = w->fresh && w->mode == FGD_FEEDBACK && w->x->dtype == FGD_F32;
    for (int64_t k = 0; k < w->rank; k++)
        memset(w->left + k * w->stride + i, 0, (size_t)R * sizeof *w->left);
    for (int64_t j = 0; j < w->columns; j += FGD_ROW_CHUNK) {
        int64_t count = FGD_MIN(FGD_ROW_CHUNK, w->columns - j), k = 0, lo = i * w->columns + j;
        const float *g = (const float *)w->x->data + lo;
        for (int r = 0; r < R; r++)
            row[r] = adds ? w->memory + lo + r * w->columns
                          : (float *)FN(elements)(w, lo + r * w->columns, count, w->fresh, buffer[r]);
#define PRODUCTS(R, K, at, first, adds)                                                                                      \
    FN(row_products)(R, K, first, adds, w, row + at, g + at * w->columns, w->right + k * w->pitch + j, count,                 \
                     w->left + k * w->stride + i + at, peak)
#define FIRST(K)                                                                                                             \
    for (int at = 0; at < R; at += S) {                                                                                      \
        if (adds)                                                                                                            \
            PRODUCTS(S, K, at, 1, 1);                                                                                        \
        else                                                                                                                 \
            PRODUCTS(S, K, at, 1, 0);                                                                                        \
    }
        if (w->rank == 1)
            FIRST(1)
        else if (w->rank == 2)
            FIRST(2)
        else if (w->rank == 3)
            FIRST(3)
        else
            FIRST(4)
        for (k = 4; k + 4 <= w->rank; k += 4)
            PRODUCTS(R, 4, 0, 0, 0);
        if (w->rank - k == 3)
            PRODUCTS(R, 3, 0, 0, 0);
        else if (w->rank - k == 2)
            PRODUCTS(R, 2, 0, 0, 0);
        else if (w->rank - k == 1)
            PRODUCTS(R, 1, 0, 0, 0);
#undef FIRST
#undef PRODUCTS
    }
}

/* Formula: M = p (compress.h), stored in FEEDBACK; (M unit) Q; the largest |M unit| as bits.
 * Cost:    reads x and the memory, writes the memory; 2 rank operations an element.
 * Order:   a row's chunks of FGD_ROW_CHUNK elements in FGD_ROW_LANES float32 lanes, folded in double, added in double.
 */
static uint32_t FN(left_rows)(const fgd_lowrank *w, int64_t lo, int64_t hi)
{
    uint32_t peak = 0;
    for (; lo + LEFT_ROWS <= hi; lo += LEFT_ROWS)
        FN(row_group)(LEFT_ROWS, FIRST_ROWS, w, lo, &peak);
    for (; lo < hi; lo++)
        FN(row_group)(1, 1, w, lo, &peak);
    return peak;
}

/* ---- orthogonalisation */

/* product[k] = <u_k, v>, K columns at a time. */
FGD_INLINE void FN(column_products)(const int K, const double *u, const double *v, int64_t stride, double *product)
{
    WIDE sum[4][FN(WIDE_PARTS)];
#pragma GCC unroll 4
    for (int k = 0; k < K; k++)
#pragma GCC unroll 4
        for (int h = 0; h < FN(WIDE_PARTS); h++)
            sum[k][h] = (WIDE){0};
    for (int64_t i = 0; i < stride; i += 8)
#pragma GCC unroll 4
        for (int h = 0; h < FN(WIDE_PARTS); h++) {
            WIDE y = FN(load_wide)(v + i + h * DOUBLES);
#pragma GCC unroll 4
            for (int k = 0; k < K; k++)
                sum[k][h] += FN(load_wide)(u + k * stride + i + h * DOUBLES) * y;
        }
#pragma GCC unroll 4
    for (int k = 0; k < K; k++)
        product[k] = FN(fold_wide)(sum[k]);
}

/* v = (v - product[0] u_0) - product[1] u_1 .. */
FGD_INLINE void FN(take_columns)(const int K, const double *u, double *v, int64_t stride, const double *product)
{
    for (int64_t i = 0; i < stride; i += DOUBLES) {
        WIDE y = FN(load_wide)(v + i);
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            y -= product[k] * FN(load_wide)(u + k * stride + i);
        memcpy(v + i, &y, sizeof y);
    }
}

/* Takes from v what it has of the columns before it. */
static void FN(project)(const double *u, double *v, int64_t stride, int64_t columns)
{
    double product[FGD_MOST_RANK];
    int64_t k = 0;
    for (; k + 4 <= columns; k += 4)
        FN(column_products)(4, u + k * stride, v, stride, product + k);
    for (; k < columns; k++)
        FN(column_products)(1, u + k * stride, v, stride, product + k);
    for (k = 0; k + 4 <= columns; k += 4)
        FN(take_columns)(4, u + k * stride, v, stride, product + k);
    for (; k < columns; k++)
        FN(take_columns)(1, u + k * stride, v, stride, product + k);
}

/* Formula: orthonormal columns of the same range: Gram-Schmidt, each column against all before it, twice, which is enough. One of
 *          which less than FGD_DEAD is left, in its square, is drawn from the stream instead, FGD_DRAWS times at most, then 0.
 * Cost:    4 rank^2 multiplications and additions a row.
 * Order:   products in 8 double lanes over the rows, folded in halves; columns are taken away in their order.
 */
static void FN(orthogonalise)(const fgd_lowrank *w)
{
    int64_t stride = w->stride;
    for (int64_t k = 0; k < w->rank; k++) {
        double *v = w->left + k * stride, before, after = 0.0;
        for (int64_t i = w->rows; i < stride; i++)
            v[i] = 0.0;
        for (int draw = 0; draw <= FGD_DRAWS; draw++) {
            if (draw)
                for (int64_t i = 0; i < w->rows; i++)
                    v[i] = fgd_lowrank_draw(w, ((uint64_t)(1 + FGD_MOST_RANK * (draw - 1) + k) << 40) + (uint64_t)i);
            FN(column_products)(1, v, v, stride, &before);
            FN(project)(w->left, v, stride, k);
            FN(project)(w->left, v, stride, k);
            FN(column_products)(1, v, v, stride, &after);
            if (before > 0.0 && before < (double)INFINITY && after >= FGD_DEAD * before)
                break;
            after = 0.0;
        }
        double length = __builtin_sqrt(after);
        for (int64_t i = 0; i < w->rows; i++)
            v[i] = after > 0.0 ? v[i] / length : 0.0;
    }
    for (int64_t i = 0; i < w->rows; i++)
        for (int64_t k = 0; k < w->rank; k++)
            fgd_put_float(w->body, i * w->rank + k, (float)w->left[k * stride + i]);
}

/* ---- second pass */

/* sum[k pitch + j] += factor[r][k] row[r][j], rows in order. */
FGD_INLINE void FN(column_sums)(const int R, const int K, const float *const *row, const float *factor, int64_t rank,
                                int64_t count, float *sum, int64_t pitch, int64_t ahead)
{
    VEC f[4][4];
    int64_t j = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            f[r][k] = (VEC){0} + factor[r * rank + k];
    for (; j + WIDTH <= count; j += WIDTH) {
        VEC y[4];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            y[r] = FN(load)(row[r] + j);
            __builtin_prefetch(row[r] + j + ahead, 0, 2);
        }
#pragma GCC unroll 4
        for (int k = 0; k < K; k++) {
            VEC s = FN(load)(sum + k * pitch + j);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                s += f[r][k] * y[r];
            memcpy(sum + k * pitch + j, &s, sizeof s);
        }
    }
    for (; j < count; j++)
        for (int k = 0; k < K; k++)
            for (int r = 0; r < R; r++)
                sum[k * pitch + j] += factor[r * rank + k] * row[r][j];
}

FGD_INLINE void FN(sum_group)(const int R, const fgd_lowrank *w, int64_t i, int64_t lo, int64_t count, float *buffer, float *sum,
                              int64_t pitch)
{
    float factor[4 * FGD_MOST_RANK];
    const float *row[4];
    memcpy(factor, w->body + 4 * i * w->rank, (size_t)(R * w->rank) * sizeof *factor);
    for (int r = 0; r < R; r++)
        row[r] = FN(elements)(w, (i + r) * w->columns + lo, count, 0, buffer + r * pitch);
    int64_t rank = w->rank, k = 0, ahead = row[0] == buffer ? 0 : R * w->columns;
    for (; k + 4 <= rank; k += 4)
        FN(column_sums)(R, 4, row, factor + k, rank, count, sum + k * pitch, pitch, ahead);
    if (rank - k == 3)
        FN(column_sums)(R, 3, row, factor + k, rank, count, sum + k * pitch, pitch, ahead);
    else if (rank - k == 2)
        FN(column_sums)(R, 2, row, factor + k, rank, count, sum + k * pitch, pitch, ahead);
    else if (rank - k == 1)
        FN(column_sums)(R, 1, row, factor + k, rank, count, sum + k * pitch, pitch, ahead);
}

/* Formula: columns [lo, hi) of (M unit)' P, P the left factor as it is sent, over unit, at most w->most in magnitude.
 * Cost:    reads M; 2 rank operations an element.
 * Order:   FGD_SUM_ROWS rows at a time in float32, those sums in double, both ascending.
 */
static int FN(right_columns)(const fgd_lowrank *w, int64_t lo, int64_t hi)
{
    int64_t count = hi - lo, pitch = w->panel + FGD_APART, size = w->rank * pitch;
    double *total = fgd_scratch(8 * size + 4 * size + 4 * 4 * pitch);
    if (!total)
        return -1;
    float *sum = (float *)(total + size), *buffer = sum + size;
    memset(total, 0, (size_t)size * sizeof *total);
    for (int64_t first = 0; first < w->rows; first += FGD_SUM_ROWS) {
        int64_t i = first, end = FGD_MIN(first + FGD_SUM_ROWS, w->rows);
        memset(sum, 0, (size_t)size * sizeof *sum);
        for (; i + 4 <= end; i += 4)
            FN(sum_group)(4, w, i, lo, count, buffer, sum, pitch);
        for (; i < end; i++)
            FN(sum_group)(1, w, i, lo, count, buffer, sum, pitch);
        for (int64_t j = 0; j < size; j++)
            total[j] += (double)sum[j];
    }
    for (int64_t k = 0; k < w->rank; k++)
        for (int64_t j = 0; j < count; j++) {
            double value = total[k * pitch + j] / (double)w->unit, most = w->most;
            value = value > most ? most : value >= -most ? value : -most;
            w->right[k * w->pitch + lo + j] = (float)value;
            fgd_put_float(w->body, (w->rows + lo + j) * w->rank + k, (float)value);
        }
    free(total);
    return 0;
}

/* ---- third pass, and decoding */

/* K ranks' products for R rows, added in their order, with `more` to what is in c; put into c (rows `pitch` apart), or with
 * `last` added to m (rows `columns` apart), the sign turned by `turn`. */
FGD_INLINE void FN(outer_products)(const int R, const int K, const int more, const int last, const float *left, int64_t rank,
                                   const float *right, int64_t stride, int64_t count, float *c, int64_t pitch, float *m,
                                   int64_t columns, int32_t turn)
{
    VEC f[4][4];
    int64_t j = 0, ahead = fgd_ahead(columns);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            f[r][k] = (VEC){0} + left[r * rank + k];
    for (; j + WIDTH <= count; j += WIDTH) {
        VEC v[4];
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            v[k] = FN(load)(right + k * stride + j);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            VEC s = more ? FN(load)(c + r * pitch + j) + f[r][0] * v[0] : f[r][0] * v[0];
#pragma GCC unroll 4
            for (int k = 1; k < K; k++)
                s += f[r][k] * v[k];
            float *to = last ? m + r * columns + j : c + r * pitch + j;
            if (last) {
                __builtin_prefetch(to + ahead, 0, 2);
                s = FN(load)(to) + (VEC)((MASK)s ^ turn);
            }
            memcpy(to, &s, sizeof s);
        }
    }
    for (; j < count; j++)
        for (int r = 0; r < R; r++) {
            float s = more ? c[r * pitch + j] + left[r * rank] * right[j] : left[r * rank] * right[j];
            for (int k = 1; k < K; k++)
                s += left[r * rank + k] * right[k * stride + j];
            if (last)
                m[r * columns + j] += turn ? -s : s;
            else
                c[r * pitch + j] = s;
        }
}

/* R rows from `left`, `count` columns of `right` (one line a rank): to c, or with `last` to m. */
FGD_INLINE void FN(entries)(const int R, const int last, const uint8_t *left, int64_t rank, const float *right, int64_t stride,
                            int64_t count, float *c, int64_t pitch, float *m, int64_t columns, int32_t turn)
{
    float factor[4 * FGD_MOST_RANK];
    memcpy(factor, left, (size_t)(R * rank) * sizeof *factor);
    int64_t k = 0;
#define OUTER(K, more, last) \
    FN(outer_products)(R, K, more, last, factor + k, rank, right + k * stride, stride, count, c, pitch, m, columns, turn)
    if (rank == 1)
        OUTER(1, 0, last);
    else if (rank == 2)
        OUTER(2, 0, last);
    else if (rank == 3)
        OUTER(3, 0, last);
    else if (rank == 4)
        OUTER(4, 0, last);
    else {
        OUTER(4, 0, 0);
        for (k = 4; k + 4 < rank; k += 4)
            OUTER(4, 1, 0);
        if (rank - k == 1)
            OUTER(1, 1, last);
        else if (rank - k == 2)
            OUTER(2, 1, last);
        else if (rank - k == 3)
            OUTER(3, 1, last);
        else
            OUTER(4, 1, last);
    }
#undef OUTER
}

FGD_INLINE void FN(finish_group)(const int R, const fgd_lowrank *w, int64_t i)
{
    float c[4][FGD_FINISH_CHUNK] __attribute__((aligned(64)));
    int64_t chunk = w->rank > 4 ? FGD_FINISH_CHUNK : w->columns;
    for (int64_t j = 0; j < w->columns; j += chunk)
        FN(entries)(R, 1, w->body + 4 * i * w->rank, w->rank, w->right + j, w->pitch, FGD_MIN(chunk, w->columns - j), c[0],
                    FGD_FINISH_CHUNK, w->memory + i * w->columns + j, w->columns, w->mode == FGD_FEEDBACK ? INT32_MIN : 0);
}

/* Formula: memory - c in FEEDBACK, memory + c in DIFFERENCE, c = P Q'^T.
 * Cost:    reads and writes the memory; 2 rank operations an element.
 */
static void FN(finish_rows)(const fgd_lowrank *w, int64_t lo, int64_t hi)
{
    for (; lo + 4 <= hi; lo += 4)
        FN(finish_group)(4, w, lo);
    for (; lo < hi; lo++)
        FN(finish_group)(1, w, lo);
}

/* `width` lines of `rank` floats as `rank` lines, `stride` apart; 4 x 4 of them at a time. */
static void FN(turn_lines)(const uint8_t *lines, int64_t rank, int64_t width, float *turned, int64_t stride)
{
    int64_t fours = rank / 4 * 4, j = 0;
    const v4si low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
    for (; j + 4 <= width; j += 4)
        for (int64_t k = 0; k < fours; k += 4) {
            v4f a[4];
            for (int l = 0; l < 4; l++)
                memcpy(a + l, lines + 4 * ((j + l) * rank + k), sizeof *a);
            v4f b[4] = {__builtin_shuffle(a[0], a[1], low), __builtin_shuffle(a[2], a[3], low),
                        __builtin_shuffle(a[0], a[1], high), __builtin_shuffle(a[2], a[3], high)};
            v4f t[4] = {__builtin_shuffle(b[0], b[1], first), __builtin_shuffle(b[0], b[1], second),
                        __builtin_shuffle(b[2], b[3], first), __builtin_shuffle(b[2], b[3], second)};
            for (int l = 0; l < 4; l++)
                memcpy(turned + (k + l) * stride + j, t + l, sizeof *t);
        }
    for (int64_t c = 0; c < width; c++)
        for (int64_t k = c < j ? fours : 0; k < rank; k++)
            memcpy(turned + k * stride + c, lines + 4 * (c * rank + k), sizeof *turned);
}

/* Formula: out = c, or out + fl(scale c), for the entries [lo, hi).
 * Cost:    writes out (and reads it), 2 rank operations an entry; the right factor is turned tile by tile, once for all rows of
 *          the range.
 */
static void FN(add_entries)(const uint8_t *left, const uint8_t *right, int64_t rank, int64_t columns, int64_t lo, int64_t hi,
                            float scale, int add, float *out)
{
    float turned[FGD_TILE] __attribute__((aligned(64))), c[FGD_TILE_COLUMNS] __attribute__((aligned(64)));
    int64_t first = lo / columns, last = (hi - 1) / columns, most = FGD_MIN(FGD_TILE / rank, FGD_TILE_COLUMNS);
    for (int64_t tile = 0; tile < columns; tile += most) {
        int64_t width = FGD_MIN(most, columns - tile);
        int ready = 0;
        for (int64_t i = first; i <= last; i++) {
            int64_t from = FGD_MAX(i * columns + tile, lo), to = FGD_MIN(i * columns + tile + width, hi);
            if (from >= to)
                continue;
            if (!ready)
                FN(turn_lines)(right + 4 * tile * rank, rank, width, turned, most);
            ready = 1;
            float *y = out + from;
            const float *part = turned + (from - i * columns - tile);
            FN(entries)(1, 0, left + 4 * i * rank, rank, part, most, to - from, add ? c : y, 0, NULL, 0, 0);
            if (add)
                for (int64_t t = 0; t < to - from; t++)
                    y[t] += scale * c[t];
        }
    }
}

#undef VEC
#undef WIDTH
#undef WIDE
#undef NARROW
#undef DOUBLES
#undef MASK
#undef LARGER
#undef LEFT_ROWS
#undef FIRST_ROWS
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
