/* Blocks of eight, one a lane: the sums of several, and the children of them that as many masses fall on. Part of a body file
 * (isa.h); the default level has no lanes, and its bodies go one by one.
 *
 * Order: as fgd_tree_block_sum and fgd_tree_child, to the bit: lanes hold different blocks, never parts of one sum.
 */
#include "dro_tree.h"

#undef LANES
#if FGD_LEVEL == 2
#define LANES 8
#define BLOCKS __m512d

/* Column k: number k of each row. */
FGD_INLINE void FN(columns)(const double *const *row, __m512d *column)
{
    const v8i even = {0, 8, 2, 10, 4, 12, 6, 14}, odd = {1, 9, 3, 11, 5, 13, 7, 15};
    const v8i low2 = {0, 1, 8, 9, 4, 5, 12, 13}, high2 = {2, 3, 10, 11, 6, 7, 14, 15};
    const v8i low4 = {0, 1, 2, 3, 8, 9, 10, 11}, high4 = {4, 5, 6, 7, 12, 13, 14, 15};
    v8d x[8], a[8], b[8];
    for (int j = 0; j < 8; j++)
        memcpy(&x[j], row[j], sizeof x[j]);
    for (int j = 0; j < 8; j += 2) {
        a[j] = __builtin_shuffle(x[j], x[j + 1], even);
        a[j + 1] = __builtin_shuffle(x[j], x[j + 1], odd);
    }
    for (int j = 0; j < 8; j += j % 4 == 1 ? 3 : 1) {
        b[j] = __builtin_shuffle(a[j], a[j + 2], low2);
        b[j + 2] = __builtin_shuffle(a[j], a[j + 2], high2);
    }
    for (int j = 0; j < 4; j++) {
        column[j] = (__m512d)__builtin_shuffle(b[j], b[j + 4], low4);
        column[j + 4] = (__m512d)__builtin_shuffle(b[j], b[j + 4], high4);
    }
}

/* fgd_tree_child: node[j] becomes a child of it. */
FGD_INLINE void FN(pick)(const __m512d *c, int64_t *node, double *mass)
{
    __m512i child = _mm512_slli_epi64(_mm512_loadu_si512(node), 3), one = _mm512_set1_epi64(1);
    __m512d m = _mm512_loadu_pd(mass), sum = _mm512_setzero_pd(), before = sum, own = c[0];
    for (int k = 0; k < 7; k++) {
        sum = _mm512_add_pd(sum, c[k]);
        __mmask8 right = _mm512_cmp_pd_mask(m, sum, _CMP_GE_OQ);
        before = _mm512_mask_mov_pd(before, right, sum);
        own = _mm512_mask_mov_pd(own, right, c[k + 1]);
        child = _mm512_mask_add_epi64(child, right, child, one);
    }
    __m512d most = _mm512_castsi512_pd(_mm512_sub_epi64(_mm512_castpd_si512(own), one));
    _mm512_storeu_pd(mass, _mm512_min_pd(_mm512_sub_pd(m, before), most));
    _mm512_storeu_si512(node, child);
}
#elif FGD_LEVEL == 1
#define LANES 4
#define BLOCKS __m256d

/* Two numbers of one row, two of another. */
FGD_INLINE __m256d FN(pair)(const double *a, const double *c)
{
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(a)), _mm_load_pd(c), 1);
}

FGD_INLINE void FN(columns)(const double *const *row, __m256d *column)
{
    for (int k = 0; k < 8; k += 2) {
        __m256d even = FN(pair)(row[0] + k, row[2] + k), odd = FN(pair)(row[1] + k, row[3] + k);
        column[k] = _mm256_unpacklo_pd(even, odd);
        column[k + 1] = _mm256_unpackhi_pd(even, odd);
    }
}

FGD_INLINE void FN(pick)(const __m256d *c, int64_t *node, double *mass)
{
    __m256i child = _mm256_slli_epi64(_mm256_loadu_si256((const __m256i *)node), 3);
    __m256d m = _mm256_loadu_pd(mass), sum = _mm256_setzero_pd(), before = sum, own = c[0];
    for (int k = 0; k < 7; k++) {
        sum = _mm256_add_pd(sum, c[k]);
        __m256d right = _mm256_cmp_pd(m, sum, _CMP_GE_OQ);
        before = _mm256_max_pd(before, _mm256_and_pd(right, sum));
        own = _mm256_blendv_pd(own, c[k + 1], right);
        child = _mm256_sub_epi64(child, _mm256_castpd_si256(right));
    }
    __m256d most = _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(own), _mm256_set1_epi64x(-1)));
    _mm256_storeu_pd(mass, _mm256_min_pd(_mm256_sub_pd(m, before), most));
    _mm256_storeu_si256((__m256i *)node, child);
}
#endif

#ifdef LANES
/* Blocks node[0] .. as columns. */
FGD_INLINE void FN(blocks)(const double *level, const int64_t *node, BLOCKS *column)
{
    const double *row[LANES];
    for (int j = 0; j < LANES; j++)
        row[j] = level + 8 * node[j];
    FN(columns)(row, column);
}

FGD_INLINE void FN(block_sums)(const BLOCKS *c, double *sum)
{
    BLOCKS total = ((((((c[0] + c[1]) + c[2]) + c[3]) + c[4]) + c[5]) + c[6]) + c[7];
    memcpy(sum, &total, sizeof total);
}
#endif
