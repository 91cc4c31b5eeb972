/* What the chi-squared sampler does to many elements of its tree at once, for one instruction set (isa.h): draws and sums.
 *
 * Cost:  a line and half a line a level and an element, all of them on a level before any goes to the next.
 * Order: as dro_chi2.h for one element, to the bit.
 */
#include "dro_lanes.h"

#ifdef LANES
/* How many of a block's leaves are not 0, and the sum of eight counts. */
#if FGD_LEVEL == 2
FGD_INLINE int32_t FN(active_leaves)(const double *c)
{
    return __builtin_popcount(_mm512_cmp_pd_mask(_mm512_load_pd(c), _mm512_setzero_pd(), _CMP_NEQ_UQ));
}

/* sum (z - s) over the active elements of each child of a block: its z, or its sums and counts. */
FGD_INLINE void FN(weights)(const double *c, const int32_t *count, double s, double *weight)
{
    __m512d one = _mm512_set1_pd(1.0), m = count ? _mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)count)) : one;
    __m512d x = _mm512_sub_pd(_mm512_load_pd(c), _mm512_mul_pd(_mm512_set1_pd(s), m));
    _mm512_store_pd(weight, _mm512_max_pd(x, _mm512_setzero_pd()));
}
#else
FGD_INLINE int32_t FN(active_leaves)(const double *c)
{
    __m256d zero = _mm256_setzero_pd();
    int low = _mm256_movemask_pd(_mm256_cmp_pd(_mm256_load_pd(c), zero, _CMP_NEQ_UQ));
    return __builtin_popcount(low | _mm256_movemask_pd(_mm256_cmp_pd(_mm256_load_pd(c + 4), zero, _CMP_NEQ_UQ)) << 4);
}

FGD_INLINE void FN(weights)(const double *c, const int32_t *count, double s, double *weight)
{
    for (int k = 0; k < 8; k += 4) {
        __m256d one = _mm256_set1_pd(1.0), m = count ? _mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)(count + k))) : one;
        __m256d x = _mm256_sub_pd(_mm256_load_pd(c + k), _mm256_mul_pd(_mm256_set1_pd(s), m));
        _mm256_store_pd(weight + k, _mm256_max_pd(x, _mm256_setzero_pd()));
    }
}
#endif

FGD_INLINE int32_t FN(counted)(const int32_t *count)
{
    __m128i x = _mm_add_epi32(_mm_loadu_si128((const __m128i *)count), _mm_loadu_si128((const __m128i *)(count + 4)));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

/* fgd_chi2_child of LANES queries. */
FGD_INLINE void FN(chi2_children)(const fgd_chi2 *w, int64_t level, int64_t *node, double *mass)
{
    double weight[LANES][8] __attribute__((aligned(64))), total[LANES];
    const double *row[LANES];
    int64_t from[LANES];
    BLOCKS c[8];
    int none = 0;
    for (int j = 0; j < LANES; j++) {
        int64_t block = 8 * (from[j] = node[j]);
        const int32_t *count = level > 1 ? fgd_counts(w, level - 1) + block : NULL;
        FN(weights)(w->tree.data + w->tree.first[level - 1] + block, count, w->s, weight[j]);
        row[j] = weight[j];
    }
    FN(columns)(row, c);
    FN(block_sums)(c, total);
    for (int j = 0; j < LANES; j++) {
        none |= !(total[j] > 0.0);
        mass[j] = mass[j] >= total[j] ? fgd_tree_below(total[j]) : mass[j];
    }
    FN(pick)(c, node, mass);
    for (int j = 0; none && j < LANES; j++)
        if (!(total[j] > 0.0)) {
            mass[j] = 0.0;
            node[j] = fgd_chi2_any_child(w, level, from[j]);
        }
}
#endif

/* Sums and counts of nodes on a level >= 1 anew: those above leaf[0] .. leaf[count - 1]; all `count` of them where leaf is
 * NULL. */
FGD_NOINLINE void FN(chi2_raise)(const fgd_chi2 *w, int64_t level, int64_t count, const int32_t *leaf)
{
    int64_t j = 0;
#ifdef LANES
    const double *below = w->tree.data + w->tree.first[level - 1];
    double *sum = w->tree.data + w->tree.first[level];
    int32_t *active = fgd_counts(w, level);
    for (; j + LANES <= count; j += LANES) {
        int64_t node[LANES];
        double made[LANES];
        BLOCKS c[8];
        for (int k = 0; k < LANES; k++)
            node[k] = leaf ? leaf[j + k] >> 3 * level : j + k;
        FN(blocks)(below, node, c);
        FN(block_sums)(c, made);
        for (int k = 0; k < LANES; k++)
            sum[node[k]] = made[k];
        for (int k = 0; k < LANES; k++)
            active[node[k]] = level == 1 ? FN(active_leaves)(below + 8 * node[k])
                                         : FN(counted)(fgd_counts(w, level - 1) + 8 * node[k]);
    }
#endif
    for (; j < count; j++)
        fgd_chi2_raise_one(w, level, leaf ? leaf[j] >> 3 * level : j);
}

/* Where masses fall below the top block; they are used up. */
FGD_NOINLINE void FN(chi2_descend)(const fgd_chi2 *w, int64_t count, double *mass, int64_t *node)
{
    memset(node, 0, (size_t)count * sizeof *node);
    for (int64_t level = w->tree.levels; level > 0; level--) {
        int64_t j = 0;
#ifdef LANES
        for (; j + LANES <= count; j += LANES)
            FN(chi2_children)(w, level, node + j, mass + j);
#endif
        for (; j < count; j++)
            node[j] = fgd_chi2_child(w, level, node[j], mass + j);
        for (j = 0; level > 1 && j < count; j++) {
            __builtin_prefetch(fgd_tree_block(&w->tree, level - 1, node[j]));
            if (level > 2)
                __builtin_prefetch(fgd_counts(w, level - 2) + 8 * node[j]);
        }
    }
}

#undef LANES
#undef BLOCKS
