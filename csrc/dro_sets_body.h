/* Blocks of the uncertainty sets, for one instruction set (isa.h): SET_BLOCK elements, which stay in the first-level cache.
 *
 * Cost:  a pass reads z (or what is left of it) once.
 * Order: element i of a block goes to lane i mod 8; lanes are folded as a tree, blocks as a balanced tree in dro_sets.c.
 */
#include "exp.h"

#define SELECT(mask, a, b) (v8d)(((v8i)(a) & (mask)) | ((v8i)(b) & ~(mask)))
#define ALL(number) ((v8d){0} + (number))

FGD_INLINE double FN(lanes)(v8d x)
{
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

FGD_INLINE double FN(least)(v8d x)
{
    double least = x[0];
    for (int l = 1; l < 8; l++)
        least = FGD_MIN(least, x[l]);
    return least;
}

/* Numbers i .. i + 7 of `count`; what is beyond them repeats the last. */
FGD_INLINE v8d FN(take)(const double *z, int64_t i, int64_t count)
{
    v8d v;
    if (i + 8 <= count)
        return *(const v8d_anywhere *)(z + i);
    for (int l = 0; l < 8; l++)
        v[l] = z[FGD_MIN(i + l, count - 1)];
    return v;
}

FGD_INLINE v8i FN(live)(int64_t i, int64_t count)
{
    v8i place = {0, 1, 2, 3, 4, 5, 6, 7};
    return place < (v8i){0} + (count - i);
}

FGD_INLINE void FN(put)(double *w, int64_t i, int64_t count, v8d v)
{
    if (i + 8 <= count)
        *(v8d_anywhere *)(w + i) = v;
    else
        memcpy(w + i, &v, (size_t)(count - i) * sizeof *w);
}

/* z of a block as doubles; buffer is for other dtypes. */
FGD_INLINE const double *FN(set_block)(const fgd_set *s, int64_t lo, int64_t count, double *buffer)
{
    if (s->logs && s->stored)
        return s->w + lo;
    if (s->dtype == FGD_F64)
        return (const double *)s->z + lo;
    const float *z = (const float *)s->z + lo;
    for (int64_t i = 0; i < count; i++)
        buffer[i] = (double)z[i];
    return buffer;
}

/* part: whether a number is not finite, the least, the greatest, how often. */
static void FN(set_range)(const double *z, int64_t count, double *part)
{
    v8d low = ALL(INFINITY), high = -low, ties = {0};
    v8i bad = {0};
    for (int64_t i = 0; i < count; i += 8) {
        v8d v = FN(take)(z, i, count);
        bad |= v - v != 0.0;
        low = SELECT(v < low, v, low);
        high = SELECT(v > high, v, high);
    }
    double top = -FN(least)(-high);
    for (int64_t i = 0; i < count; i += 8)
        ties += SELECT((FN(take)(z, i, count) == top) & FN(live)(i, count), ALL(1.0), ALL(0.0));
    part[0] = 0;
    for (int l = 0; l < 8; l++)
        part[0] += (double)(bad[l] != 0);
    part[1] = FN(least)(low);
    part[2] = top;
    part[3] = FN(lanes)(ties);
}

/* y of those above the cut (from within y already where `fresh` is 0), in their order, at `to`. Returns how many. */
FGD_INLINE int64_t FN(set_above)(const fgd_set *s, const double *z, int64_t count, double *to, const int fresh)
{
    double head = s->head, centre = s->centre, scale = s->scale, cut = s->cut;
    int64_t i = 0, kept = 0;
    for (; i + 8 <= count; i += 8) {
        v8d y = *(const v8d_anywhere *)(z + i);
        if (fresh)
            y = (y * head - centre) * scale;
#if FGD_LEVEL == 2
        __mmask8 mask = _mm512_cmp_pd_mask((__m512d)y, _mm512_set1_pd(cut), _CMP_GT_OQ);
        _mm512_storeu_pd(to + kept, _mm512_maskz_compress_pd(mask, (__m512d)y));
        kept += __builtin_popcount(mask);
#else
        for (int l = 0; l < 8; l++) {
            to[kept] = y[l];
            kept += y[l] > cut;
        }
#endif
    }
    for (; i < count; i++) {
        double y = fresh ? (z[i] * head - centre) * scale : z[i];
        to[kept] = y;
        kept += y > cut;
    }
    return kept;
}

/* part: how many are left, their mean, the squares about it, the least. */
static void FN(set_moments)(const fgd_set *s, int64_t lo, int64_t count, double *part)
{
    double buffer[SET_BLOCK + 8], wide[SET_BLOCK];
    double *y = s->stored || s->store ? s->w + lo : buffer;
    int64_t left = s->stored ? FN(set_above)(s, y, (int64_t)part[0], y, 0)
                             : FN(set_above)(s, FN(set_block)(s, lo, count, wide), count, y, 1);
    v8d sum = {0}, squares = {0}, low = ALL(INFINITY);
    int64_t whole = left & ~(int64_t)7;
    for (int64_t i = 0; i < whole; i += 8) {
        v8d v = *(const v8d_anywhere *)(y + i);
        sum += v;
        low = SELECT(v < low, v, low);
    }
    double least = FN(least)(low);
    for (int64_t i = whole; i < left; i++) {
        sum[i - whole] += y[i];
        least = FGD_MIN(least, y[i]);
    }
    double mean = left ? FN(lanes)(sum) / (double)left : 0.0;
    for (int64_t i = 0; i < whole; i += 8) {
        v8d v = *(const v8d_anywhere *)(y + i) - mean;
        squares += v * v;
    }
    for (int64_t i = whole; i < left; i++)
        squares[i - whole] += (y[i] - mean) * (y[i] - mean);
    part[0] = (double)left;
    part[1] = mean;
    part[2] = FN(lanes)(squares);
    part[3] = least;
}

/* Tilts: x = slope y. The active ones are x > cut, for caps the others; t = max(x - from, -800), which is as good as -infinity.
 * part: how many are not active; sums over the active of e^t, t e^t, t^2 e^t, e^t - 1; the sum of the other x; the greatest
 * x <= cut and the least x > cut. */
static void FN(set_tilt)(const fgd_set *s, int64_t lo, int64_t count, double *part)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    double head = s->head, centre = s->centre, scale = s->scale, slope = s->slope, from = s->from, cut = s->cut;
    v8i caps = (v8i){0} - (s->kind == SET_CAPPED);
    v8d idle = {0}, s0 = {0}, s1 = {0}, s2 = {0}, less = {0}, other = {0}, below = ALL(-INFINITY), above = -below;
    for (int64_t i = 0; i < count; i += 8) {
        v8d v = FN(take)(z, i, count), minus;
        if (s->logs && !s->stored) {
            v = FN(log8)(v);
            FN(put)(s->w + lo, i, count, v);
        }
        v8d x = (v * head - centre) * scale * slope, t = x - from;
        t = SELECT(t > -800.0, t, ALL(-800.0));
        v8d e = FN(exp8)(t, &minus);
        v8i live = FN(live)(i, count), upper = x > cut, active = (upper ^ caps) & live, out = ~active & live;
        e = SELECT(active, e, ALL(0.0));
        idle += SELECT(out, ALL(1.0), ALL(0.0));
        s0 += e;
        s1 += t * e;
        s2 += t * t * e;
        less += SELECT(active, minus, ALL(0.0));
        other += SELECT(out, x, ALL(0.0));
        below = SELECT(~upper & (x > below) & live, x, below);
        above = SELECT(upper & (x < above) & live, x, above);
    }
    part[0] = FN(lanes)(idle);
    part[1] = FN(lanes)(s0);
    part[2] = FN(lanes)(s1);
    part[3] = FN(lanes)(s2);
    part[4] = FN(lanes)(less);
    part[5] = FN(lanes)(other);
    part[6] = -FN(least)(-below);
    part[7] = FN(least)(above);
}

/* Quantile: what lies between `least` and `most` goes to w, and its images are counted. part: how many. */
static void FN(set_count)(const fgd_set *s, int64_t lo, int64_t count, double *part, int64_t *bins)
{
    double wide[SET_BLOCK], *to = s->w + lo, least = s->least, most = s->most;
    const double *z = s->stored ? to : FN(set_block)(s, lo, count, wide);
    int64_t kept = 0;
    count = s->stored ? (int64_t)part[0] : count;
    for (int64_t i = 0; i < count; i++) {
        double v = z[i] + 0.0; /* one zero */
        to[kept] = v;
        kept += (v >= least) & (v <= most);
    }
    for (int64_t i = 0; i < kept; i++)
        bins[((uint64_t)set_image(to[i]) - (uint64_t)s->first) >> s->shift]++;
    part[0] = (double)kept;
}

/* ---- the weights */

static void FN(set_linear)(const fgd_set *s, int64_t lo, int64_t count)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    double head = s->head, centre = s->centre, scale = s->scale, base = s->base, mean = s->mean, gain = s->gain;
    double least = s->floor / (double)s->n;
    for (int64_t i = 0; i < count; i += 8) {
        v8d p = base + ((FN(take)(z, i, count) * head - centre) * scale - mean) * gain;
        FN(put)(s->w + lo, i, count, least + SELECT(p > 0.0, p, ALL(0.0)));
    }
}

static void FN(set_tilted)(const fgd_set *s, int64_t lo, int64_t count)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    double head = s->head, centre = s->centre, scale = s->scale, slope = s->slope, from = s->from, factor = s->factor;
    double least = s->floor / (double)s->n;
    for (int64_t i = 0; i < count; i += 8) {
        v8d t = (FN(take)(z, i, count) * head - centre) * scale * slope - from, minus;
        v8d p = factor * FN(exp8)(SELECT(t < 0.0, t, ALL(0.0)), &minus);
        FN(put)(s->w + lo, i, count, SELECT(p > least, p, ALL(least)));
    }
}

/* By the side of c on which z lies. part: the sum of y above. */
static void FN(set_sides)(const fgd_set *s, int64_t lo, int64_t count, double *part)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    v8d sum = {0};
    for (int64_t i = 0; i < count; i += 8) {
        v8d v = FN(take)(z, i, count);
        v8i up = v > s->c, same = v == s->c;
        sum += SELECT(up & FN(live)(i, count), (v * s->head - s->centre) * s->scale, ALL(0.0));
        FN(put)(s->w + lo, i, count, SELECT(up, ALL(s->above), SELECT(same, ALL(s->equal), ALL(s->below))));
    }
    part[0] = FN(lanes)(sum);
}

#undef SELECT
#undef ALL
