/* Blocks of the uncertainty sets, for one instruction set (isa.h): SET_BLOCK elements, which stay in the first-level cache.
 *
 * Cost:  a pass reads z (or what is left of it) once.
 * Order: element i of a block goes to lane i mod 8; lanes are folded as a tree, blocks as a balanced tree in dro_sets.c.
 */
#include "exp.h"

/* i is where vector `part` of the next eight elements begins. */
#define FOR_VECTORS(count)                               \
    for (int64_t first = 0; first < (count); first += 8) \
        for (int64_t part = 0, i = first; part < PARTS; part++, i += WIDTH)

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

/* Found: whether a number is not finite, the least, the greatest, how often. */
static void FN(set_range)(const fgd_set *s, int64_t lo, int64_t count, double *found)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    VEC low[PARTS], high[PARTS], ties[PARTS] = {{0}}, bad[PARTS] = {{0}}; /* high, negated */
    for (int p = 0; p < PARTS; p++)
        low[p] = high[p] = ALL(INFINITY);
    FOR_VECTORS(count) {
        VEC v = FN(take_d)(z, i, count);
        bad[part] += SELECT(v - v != 0.0, ALL(1.0), ALL(0.0));
        low[part] = SELECT(v < low[part], v, low[part]);
        high[part] = SELECT(-v < high[part], -v, high[part]);
    }
    double top = -FN(least_d)(high);
    FOR_VECTORS(count)
        ties[part] += SELECT((FN(take_d)(z, i, count) == top) & FN(inside_d)(i, count), ALL(1.0), ALL(0.0));
    found[0] = FN(sum_d)(bad);
    found[1] = FN(least_d)(low);
    found[2] = top;
    found[3] = FN(sum_d)(ties);
}

/* y of those above the cut (from within y already where `fresh` is 0), in their order, at `to`. Returns how many. */
FGD_INLINE int64_t FN(set_above)(const fgd_set *s, const double *z, int64_t count, double *to, const int fresh)
{
    double head = s->head, centre = s->centre, scale = s->scale, cut = s->cut;
    int64_t i = 0, kept = 0;
    for (; i + WIDTH <= count; i += WIDTH) {
        VEC y = FN(take_d)(z, i, count);
        if (fresh)
            y = (y * head - centre) * scale;
#if FGD_LEVEL == 2
        __mmask8 mask = _mm512_cmp_pd_mask((__m512d)y, _mm512_set1_pd(cut), _CMP_GT_OQ);
        _mm512_storeu_pd(to + kept, _mm512_maskz_compress_pd(mask, (__m512d)y));
        kept += __builtin_popcount(mask);
#else
        for (int l = 0; l < WIDTH; l++) {
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

/* Found: how many are left, their mean, the squares about it, the least. */
static void FN(set_moments)(const fgd_set *s, int64_t lo, int64_t count, double *found)
{
    double buffer[SET_BLOCK + 8], wide[SET_BLOCK];
    double *y = s->stored || s->store ? s->w + lo : buffer;
    int64_t left = s->stored ? FN(set_above)(s, y, (int64_t)found[0], y, 0)
                             : FN(set_above)(s, FN(set_block)(s, lo, count, wide), count, y, 1);
    VEC sum[PARTS] = {{0}}, squares[PARTS] = {{0}}, low[PARTS];
    for (int p = 0; p < PARTS; p++)
        low[p] = ALL(INFINITY);
    FOR_VECTORS(left) {
        VEC v = FN(take_d)(y, i, left);
        sum[part] += SELECT(FN(inside_d)(i, left), v, ALL(0.0));
        low[part] = SELECT(v < low[part], v, low[part]);
    }
    double mean = left ? FN(sum_d)(sum) / (double)left : 0.0;
    FOR_VECTORS(left) {
        VEC v = FN(take_d)(y, i, left) - mean;
        squares[part] += SELECT(FN(inside_d)(i, left), v * v, ALL(0.0));
    }
    found[0] = (double)left;
    found[1] = mean;
    found[2] = FN(sum_d)(squares);
    found[3] = FN(least_d)(low);
}

/* Tilts: x = slope y, t = max(x - from, -800), which is as good as -infinity. Active are the x > cut, for caps the others, and
 * all where not `bounded`. Found: how many are not active; sums over the active of e^t, t e^t, t^2 e^t, e^t - 1; for caps the sum
 * of the other z from the largest; the greatest z with x <= cut and the least with x > cut. */
FGD_INLINE void FN(set_tilt_block)(const fgd_set *s, int64_t lo, int64_t count, double *found, const int bounded)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    double head = s->head, centre = s->centre, scale = s->scale, slope = s->slope, from = s->from, cut = s->cut;
    INT caps = (INT){0} - (s->kind == SET_CAPPED);
    int logs = s->logs && !s->stored;
    VEC sum[6][PARTS] = {{{0}}}, below[PARTS], above[PARTS]; /* below, negated */
    for (int p = 0; p < PARTS; p++)
        below[p] = above[p] = ALL(INFINITY);
    FOR_VECTORS(count) {
        VEC v = FN(take_d)(z, i, count), less;
        INT active = FN(inside_d)(i, count);
        if (logs) {
            v = FN(log_d)(v);
            FN(put_d)(s->w + lo, i, count, v);
        }
        VEC x = (v * head - centre) * scale * slope, t = x - from;
        t = SELECT(t > -800.0, t, ALL(-800.0));
        if (bounded) {
            INT upper = x > cut, inside = active, out;
            active = (upper ^ caps) & inside;
            out = ~active & inside;
            sum[0][part] += SELECT(out, ALL(1.0), ALL(0.0));
            sum[5][part] += SELECT(out & caps, (v * s->span_head - s->span_centre) * s->span_scale, ALL(0.0));
            below[part] = SELECT(~upper & (-v < below[part]), -v, below[part]);
            above[part] = SELECT(upper & (v < above[part]), v, above[part]);
            t = SELECT(active, t, ALL(0.0));
        }
        VEC e = SELECT(active, FN(exp_d)(t, &less), ALL(0.0)), te = t * e;
        sum[1][part] += e;
        sum[2][part] += te;
        sum[3][part] += t * te;
        sum[4][part] += SELECT(active, less, ALL(0.0));
    }
    for (int k = 0; k < 6; k++)
        found[k] = FN(sum_d)(sum[k]);
    found[6] = -FN(least_d)(below);
    found[7] = FN(least_d)(above);
}

static void FN(set_tilt)(const fgd_set *s, int64_t lo, int64_t count, double *found)
{
    if (s->floor > 0.0 || s->kind == SET_CAPPED)
        FN(set_tilt_block)(s, lo, count, found, 1);
    else
        FN(set_tilt_block)(s, lo, count, found, 0);
}

/* What lies from `least` to `most` goes to `to`, which may be z; how many. */
static int64_t FN(set_keep)(const double *z, int64_t count, double least, double most, double *to)
{
    int64_t i = 0, kept = 0;
#if FGD_LEVEL == 2
    __m512d low = _mm512_set1_pd(least), high = _mm512_set1_pd(most), zero = _mm512_setzero_pd();
    for (; i + 8 <= count; i += 8) {
        __m512d v = _mm512_add_pd(_mm512_loadu_pd(z + i), zero); /* one zero */
        __mmask8 inside = _mm512_cmp_pd_mask(v, low, _CMP_GE_OQ) & _mm512_cmp_pd_mask(v, high, _CMP_LE_OQ);
        int found = __builtin_popcount(inside);
        _mm512_mask_storeu_pd(to + kept, (__mmask8)((1u << found) - 1), _mm512_maskz_compress_pd(inside, v));
        kept += found;
    }
#endif
    for (; i < count; i++) {
        double v = z[i] + 0.0;
        to[kept] = v;
        kept += (v >= least) & (v <= most);
    }
    return kept;
}

static int64_t FN(set_within)(const double *z, int64_t count, double least, double most)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
        found += (z[i] >= least) & (z[i] <= most);
    return found;
}

/* Quantile: what lies between `least` and `most` goes to w. Found: how many, and how many are above. */
static void FN(set_count)(const fgd_set *s, int64_t lo, int64_t count, double *found)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    found[1] = (double)FN(set_within)(z, count, nextafter(s->most, INFINITY), INFINITY);
    found[0] = (double)FN(set_keep)(z, count, s->least, s->most, s->w + lo);
}

/* ---- the weights */

static void FN(set_linear)(const fgd_set *s, int64_t lo, int64_t count)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    double head = s->head, centre = s->centre, scale = s->scale, base = s->base, mean = s->mean, gain = s->gain;
    double least = s->floor / (double)s->n;
    for (int64_t i = 0; i < count; i += WIDTH) {
        VEC p = base + ((FN(take_d)(z, i, count) * head - centre) * scale - mean) * gain;
        FN(put_d)(s->w + lo, i, count, least + SELECT(p > 0.0, p, ALL(0.0)));
    }
}

static void FN(set_tilted)(const fgd_set *s, int64_t lo, int64_t count)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    double head = s->head, centre = s->centre, scale = s->scale, slope = s->slope, from = s->from, factor = s->factor;
    double least = s->floor / (double)s->n;
    for (int64_t i = 0; i < count; i += WIDTH) {
        VEC t = (FN(take_d)(z, i, count) * head - centre) * scale * slope - from, less;
        t = SELECT(t < 0.0, t, ALL(0.0));
        VEC p = factor * FN(exp_d)(SELECT(t > -800.0, t, ALL(-800.0)), &less);
        FN(put_d)(s->w + lo, i, count, SELECT(p > least, p, ALL(least)));
    }
}

/* By the side of c on which z lies. Found: the sum of y above. */
static void FN(set_sides)(const fgd_set *s, int64_t lo, int64_t count, double *found)
{
    double wide[SET_BLOCK];
    const double *z = FN(set_block)(s, lo, count, wide);
    VEC sum[PARTS] = {{0}};
    FOR_VECTORS(count) {
        VEC v = FN(take_d)(z, i, count);
        INT up = v > s->c, same = v == s->c;
        sum[part] += SELECT(up & FN(inside_d)(i, count), (v * s->head - s->centre) * s->scale, ALL(0.0));
        FN(put_d)(s->w + lo, i, count, SELECT(up, ALL(s->above), SELECT(same, ALL(s->equal), ALL(s->below))));
    }
    found[0] = FN(sum_d)(sum);
}

#undef FOR_VECTORS
