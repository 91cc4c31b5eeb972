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
#define DOUBLES 8
#define LEFT_ROWS 4
#elif FGD_LEVEL == 1
#define VEC v8f
#define WIDTH 8
#define WIDE v4d
#define DOUBLES 4
#define LEFT_ROWS 1
#else
#define VEC v4f
#define WIDTH 4
#define WIDE v2d
#define DOUBLES 2
#define LEFT_ROWS 1
#endif

enum { FN(LANE_PARTS) = FGD_ROW_LANES / WIDTH, FN(WIDE_PARTS) = 8 / DOUBLES };

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
    float lane[FGD_ROW_LANES];
    double half[FGD_ROW_LANES / 2];
    memcpy(lane, sum, sizeof lane);
    for (int l = 0; l < 8; l++)
        half[l] = (double)lane[l] + (double)lane[l + 8];
    for (int l = 0; l < 4; l++)
        half[l] += half[l + 4];
    return (half[0] + half[2]) + (half[1] + half[3]);
}

/* total[r ld + k stride] += a chunk of row r times a chunk of column k of Q. */
FGD_INLINE void FN(row_products)(const int R, const int K, const float *const *row, const float *q, int64_t pitch, int64_t count,
                                 double *total, int64_t stride)
{
    VEC sum[R][K][FN(LANE_PARTS)];
    memset(sum, 0, sizeof sum);
    int64_t j = 0;
    for (; j + FGD_ROW_LANES <= count; j += FGD_ROW_LANES)
#pragma GCC unroll 4
        for (int h = 0; h < FN(LANE_PARTS); h++) {
            VEC y[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                y[r] = FN(load)(row[r] + j + h * WIDTH);
#pragma GCC unroll 4
            for (int k = 0; k < K; k++) {
                VEC v = FN(load)(q + k * pitch + j + h * WIDTH);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
                    sum[r][k][h] += y[r] * v;
            }
        }
    if (j < count) { /* zeros follow a row's end: they change no sum, as no sum is -0 */
        float y[FGD_ROW_LANES] = {0}, v[FGD_ROW_LANES] = {0};
        for (int r = 0; r < R; r++) {
            memcpy(y, row[r] + j, (size_t)(count - j) * sizeof *y);
            for (int k = 0; k < K; k++) {
                memcpy(v, q + k * pitch + j, (size_t)(count - j) * sizeof *v);
#pragma GCC unroll 4
                for (int h = 0; h < FN(LANE_PARTS); h++)
                    sum[r][k][h] += FN(load)(y + h * WIDTH) * FN(load)(v + h * WIDTH);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int k = 0; k < K; k++)
            total[r + k * stride] += FN(fold_row)(sum[r][k]);
}

FGD_INLINE void FN(row_group)(const int R, const fgd_lowrank *w, int64_t i, uint32_t *peak)
{
    float buffer[R][FGD_ROW_CHUNK] __attribute__((aligned(64)));
    const float *row[R];
    for (int64_t k = 0; k < w->rank; k++)
        memset(w->left + k * w->stride + i, 0, (size_t)R * sizeof *w->left);
    for (int64_t j = 0; j < w->columns; j += FGD_ROW_CHUNK) {
        int64_t count = FGD_MIN(FGD_ROW_CHUNK, w->columns - j), k = 0;
        for (int r = 0; r < R; r++) {
            row[r] = FN(elements)(w, (i + r) * w->columns + j, count, w->fresh, buffer[r]);
            *peak = FN(peak)(row[r], count, *peak);
        }
        double *total = w->left + i;
        const float *q = w->right + j;
        for (; k + 4 <= w->rank; k += 4)
            FN(row_products)(R, 4, row, q + k * w->columns, w->columns, count, total + k * w->stride, w->stride);
        total += k * w->stride;
        q += k * w->columns;
        if (w->rank - k == 3)
            FN(row_products)(R, 3, row, q, w->columns, count, total, w->stride);
        else if (w->rank - k == 2)
            FN(row_products)(R, 2, row, q, w->columns, count, total, w->stride);
        else if (w->rank - k == 1)
            FN(row_products)(R, 1, row, q, w->columns, count, total, w->stride);
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
        FN(row_group)(LEFT_ROWS, w, lo, &peak);
    for (; lo < hi; lo++)
        FN(row_group)(1, w, lo, &peak);
    return peak;
}

/* ---- orthogonalisation */

/* Eight lanes, folded in halves. */
FGD_INLINE double FN(fold_column)(const WIDE *sum)
{
    double lane[8];
    memcpy(lane, sum, sizeof lane);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/* product[k] = <u_k, v>, K columns at a time. */
FGD_INLINE void FN(column_products)(const int K, const double *u, const double *v, int64_t stride, double *product)
{
    WIDE sum[K][FN(WIDE_PARTS)];
    memset(sum, 0, sizeof sum);
    for (int64_t i = 0; i < stride; i += 8)
#pragma GCC unroll 4
        for (int h = 0; h < FN(WIDE_PARTS); h++) {
            WIDE y = FN(load_wide)(v + i + h * DOUBLES);
#pragma GCC unroll 4
            for (int k = 0; k < K; k++)
                sum[k][h] += FN(load_wide)(u + k * stride + i + h * DOUBLES) * y;
        }
    for (int k = 0; k < K; k++)
        product[k] = FN(fold_column)(sum[k]);
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

/* Formula: orthonormal columns of the same range; Gram-Schmidt on whole blocks, twice, which is enough. A column of which less than
 *          FGD_DEAD is left, in its square, is drawn from the stream instead, FGD_DRAWS times at most, then zero.
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
FGD_INLINE void FN(column_sums)(const int R, const int K, const float *const *row, const float *factor, int64_t rank, int64_t count,
                                float *sum, int64_t pitch, int64_t ahead)
{
    VEC f[R][K];
    int64_t j = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            f[r][k] = (VEC){0} + factor[r * rank + k];
    for (; j + WIDTH <= count; j += WIDTH) {
        VEC y[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            y[r] = FN(load)(row[r] + j);
            __builtin_prefetch(row[r] + j + ahead);
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

FGD_INLINE void FN(sum_group)(const int R, const fgd_lowrank *w, int64_t i, int64_t lo, int64_t count, float *sum, int64_t pitch)
{
    float buffer[R][FGD_PANEL_COLUMNS] __attribute__((aligned(64)));
    float factor[R * FGD_MOST_RANK];
    const float *row[R];
    memcpy(factor, w->body + 4 * i * w->rank, (size_t)(R * w->rank) * sizeof *factor);
    for (int r = 0; r < R; r++)
        row[r] = FN(elements)(w, (i + r) * w->columns + lo, count, 0, buffer[r]);
    int64_t rank = w->rank, k = 0, ahead = row[0] == buffer[0] ? 0 : R * w->columns;
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
static void FN(right_columns)(const fgd_lowrank *w, int64_t lo, int64_t hi)
{
    float sum[FGD_PANEL] __attribute__((aligned(64)));
    double total[FGD_PANEL] __attribute__((aligned(64)));
    int64_t count = hi - lo, pitch = fgd_lowrank_panel(w->columns, w->rank);
    int64_t size = w->rank * pitch;
    memset(total, 0, (size_t)size * sizeof *total);
    for (int64_t first = 0; first < w->rows; first += FGD_SUM_ROWS) {
        int64_t i = first, end = FGD_MIN(first + FGD_SUM_ROWS, w->rows);
        memset(sum, 0, (size_t)size * sizeof *sum);
        for (; i + 4 <= end; i += 4)
            FN(sum_group)(4, w, i, lo, count, sum, pitch);
        for (; i < end; i++)
            FN(sum_group)(1, w, i, lo, count, sum, pitch);
        for (int64_t j = 0; j < size; j++)
            total[j] += (double)sum[j];
    }
    for (int64_t k = 0; k < w->rank; k++)
        for (int64_t j = 0; j < count; j++) {
            double value = total[k * pitch + j] / (double)w->unit, most = w->most;
            value = value > most ? most : value >= -most ? value : -most;
            w->right[k * w->columns + lo + j] = (float)value;
            fgd_put_float(w->body, (w->rows + lo + j) * w->rank + k, (float)value);
        }
}

/* ---- third pass, and decoding */

/* c[r pitch + j] of R rows and K ranks: their sum, or with `more` what is there and their sum, one by one. */
FGD_INLINE void FN(outer_products)(const int R, const int K, const int more, const float *left, int64_t rank, const float *right,
                                   int64_t stride, int64_t count, float *c, int64_t pitch)
{
    VEC f[R][K];
    int64_t j = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            f[r][k] = (VEC){0} + left[r * rank + k];
    for (; j + WIDTH <= count; j += WIDTH) {
        VEC v[K];
#pragma GCC unroll 4
        for (int k = 0; k < K; k++)
            v[k] = FN(load)(right + k * stride + j);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            VEC s = more ? FN(load)(c + r * pitch + j) + f[r][0] * v[0] : f[r][0] * v[0];
#pragma GCC unroll 4
            for (int k = 1; k < K; k++)
                s += f[r][k] * v[k];
            memcpy(c + r * pitch + j, &s, sizeof s);
        }
    }
    for (; j < count; j++)
        for (int r = 0; r < R; r++) {
            float s = more ? c[r * pitch + j] + left[r * rank] * right[j] : left[r * rank] * right[j];
            for (int k = 1; k < K; k++)
                s += left[r * rank + k] * right[k * stride + j];
            c[r * pitch + j] = s;
        }
}

/* The entries of R rows from `left`, `count` columns of `right` (one line a rank), in ascending order of the rank. */
FGD_INLINE void FN(entries)(const int R, const uint8_t *left, int64_t rank, const float *right, int64_t stride, int64_t count, float *c,
                            int64_t pitch)
{
    float factor[R * FGD_MOST_RANK];
    memcpy(factor, left, (size_t)(R * rank) * sizeof *factor);
#define OUTER(K, more) FN(outer_products)(R, K, more, factor + k, rank, right + k * stride, stride, count, c, pitch)
    int64_t k = 0;
    if (rank == 1)
        OUTER(1, 0);
    else if (rank == 2)
        OUTER(2, 0);
    else if (rank == 3)
        OUTER(3, 0);
    else
        OUTER(4, 0);
    for (k = 4; k + 4 <= rank; k += 4)
        OUTER(4, 1);
    for (; k < rank; k++)
        OUTER(1, 1);
#undef OUTER
}

FGD_INLINE void FN(finish_group)(const int R, const fgd_lowrank *w, int64_t i)
{
    float c[R][FGD_ROW_CHUNK] __attribute__((aligned(64)));
    for (int64_t j = 0; j < w->columns; j += FGD_ROW_CHUNK) {
        int64_t count = FGD_MIN(FGD_ROW_CHUNK, w->columns - j);
        FN(entries)(R, w->body + 4 * i * w->rank, w->rank, w->right + j, w->columns, count, c[0], FGD_ROW_CHUNK);
        for (int r = 0; r < R; r++) {
            float *m = w->memory + (i + r) * w->columns + j;
            if (w->mode == FGD_FEEDBACK)
                for (int64_t t = 0; t < count; t++)
                    m[t] -= c[r][t];
            else
                for (int64_t t = 0; t < count; t++)
                    m[t] += c[r][t];
        }
    }
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

/* out = c, or out + fl(scale c), of the entries [lo, hi) row by row. Cost: writes out (and reads it), 2 rank operations an entry; the
 * right factor is turned tile by tile, once for all rows of the range. */
static void FN(add_entries)(const uint8_t *left, const uint8_t *right, int64_t rank, int64_t columns, int64_t lo, int64_t hi, float scale,
                            int add, float *out)
{
    float turned[FGD_MOST_RANK * FGD_DECODE_TILE] __attribute__((aligned(64))), c[FGD_DECODE_TILE] __attribute__((aligned(64)));
    int64_t first = lo / columns, last = (hi - 1) / columns;
    for (int64_t tile = 0; tile < columns; tile += FGD_DECODE_TILE) {
        int64_t width = FGD_MIN(FGD_DECODE_TILE, columns - tile);
        int ready = 0;
        for (int64_t i = first; i <= last; i++) {
            int64_t from = FGD_MAX(i * columns + tile, lo), to = FGD_MIN(i * columns + tile + width, hi);
            if (from >= to)
                continue;
            if (!ready) {
                for (int64_t j = 0; j < width; j++)
                    for (int64_t k = 0; k < rank; k++)
                        memcpy(turned + k * FGD_DECODE_TILE + j, right + 4 * ((tile + j) * rank + k), sizeof *turned);
                ready = 1;
            }
            FN(entries)(1, left + 4 * i * rank, rank, turned + (from - i * columns - tile), FGD_DECODE_TILE, to - from, c,
                        FGD_DECODE_TILE);
            float *y = out + from;
            if (add)
                for (int64_t t = 0; t < to - from; t++)
                    y[t] += scale * c[t];
            else
                memcpy(y, c, (size_t)(to - from) * sizeof *y);
        }
    }
}

#undef VEC
#undef WIDTH
#undef WIDE
#undef DOUBLES
#undef LEFT_ROWS
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
