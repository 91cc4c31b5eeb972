/* What the sum tree does to many leaves at once, for one instruction set (isa.h): descents, and a search of all leaves.
 *
 * Formula: dro_tree.h. Cost: one cache line a level and a query, all queries of a group on a level before any goes to the next:
 *          their misses overlap, and so do their chains of 8 dependent additions.
 * Order:   as the scalar descent, to the bit: lanes hold different queries, never parts of one sum.
 */
#include "rng.h"

#define GROUP 128

#if FGD_LEVEL == 2
/* Row j of x becomes column j. */
FGD_INLINE void FN(transpose)(v8d *x)
{
    const v8i even = {0, 8, 2, 10, 4, 12, 6, 14}, odd = {1, 9, 3, 11, 5, 13, 7, 15};
    const v8i low2 = {0, 1, 8, 9, 4, 5, 12, 13}, high2 = {2, 3, 10, 11, 6, 7, 14, 15};
    const v8i low4 = {0, 1, 2, 3, 8, 9, 10, 11}, high4 = {4, 5, 6, 7, 12, 13, 14, 15};
    v8d a[8], b[8];
    for (int j = 0; j < 8; j += 2) {
        a[j] = __builtin_shuffle(x[j], x[j + 1], even);
        a[j + 1] = __builtin_shuffle(x[j], x[j + 1], odd);
    }
    for (int j = 0; j < 8; j += j % 4 == 1 ? 3 : 1) {
        b[j] = __builtin_shuffle(a[j], a[j + 2], low2);
        b[j + 2] = __builtin_shuffle(a[j], a[j + 2], high2);
    }
    for (int j = 0; j < 4; j++) {
        x[j] = __builtin_shuffle(b[j], b[j + 4], low4);
        x[j + 4] = __builtin_shuffle(b[j], b[j + 4], high4);
    }
}

/* fgd_tree_child of eight queries: node[j] becomes a child of it. */
FGD_INLINE void FN(children)(const double *blocks, int64_t *node, double *mass)
{
    v8d c[8];
    for (int j = 0; j < 8; j++)
        memcpy(&c[j], blocks + 8 * node[j], sizeof c[j]);
    FN(transpose)(c);
    __m512i child = _mm512_slli_epi64(_mm512_loadu_si512(node), 3), one = _mm512_set1_epi64(1);
    __m512d m = _mm512_loadu_pd(mass), sum = _mm512_setzero_pd(), before = sum, own = (__m512d)c[0];
    for (int k = 0; k < 7; k++) {
        sum = _mm512_add_pd(sum, (__m512d)c[k]);
        __mmask8 right = _mm512_cmp_pd_mask(m, sum, _CMP_GE_OQ);
        before = _mm512_mask_mov_pd(before, right, sum);
        own = _mm512_mask_mov_pd(own, right, (__m512d)c[k + 1]);
        child = _mm512_mask_add_epi64(child, right, child, one);
    }
    __m512d most = _mm512_castsi512_pd(_mm512_sub_epi64(_mm512_castpd_si512(own), one));
    _mm512_storeu_pd(mass, _mm512_min_pd(_mm512_sub_pd(m, before), most));
    _mm512_storeu_si512(node, child);
}
#elif FGD_LEVEL == 1
/* Two numbers of one block, two of another. */
FGD_INLINE __m256d FN(pair)(const double *a, const double *c)
{
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_load_pd(a)), _mm_load_pd(c), 1);
}

/* fgd_tree_child of four queries. */
FGD_INLINE void FN(children)(const double *blocks, int64_t *node, double *mass)
{
    __m256d c[8];
    const double *block[4];
    for (int j = 0; j < 4; j++)
        block[j] = blocks + 8 * node[j];
    for (int k = 0; k < 8; k += 2) {
        __m256d even = FN(pair)(block[0] + k, block[2] + k), odd = FN(pair)(block[1] + k, block[3] + k);
        c[k] = _mm256_unpacklo_pd(even, odd);
        c[k + 1] = _mm256_unpackhi_pd(even, odd);
    }
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

/* The leaves of up to GROUP masses, which are used up. */
FGD_INLINE void FN(descend)(const fgd_tree *t, int64_t count, double *mass, int64_t *out)
{
    memset(out, 0, (size_t)count * sizeof *out);
    for (int64_t level = t->levels; level > 0; level--) {
        const double *blocks = t->data + t->first[level - 1];
        int64_t j = 0;
#if FGD_LEVEL > 0
        for (; j + FGD_WIDE <= count; j += FGD_WIDE)
            FN(children)(blocks, out + j, mass + j);
#endif
        for (; j < count; j++)
            out[j] = 8 * out[j] + fgd_tree_child(blocks + 8 * out[j], mass + j);
        if (level > 1)
            for (j = 0; j < count; j++)
                __builtin_prefetch(t->data + t->first[level - 2] + 8 * out[j]);
    }
}

FGD_NOINLINE void FN(tree_find)(const fgd_tree *t, int64_t count, const double *mass, int64_t *out)
{
    double left[GROUP] __attribute__((aligned(64)));
    for (int64_t start = 0; start < count; start += GROUP) {
        int64_t size = FGD_MIN(count - start, GROUP);
        memcpy(left, mass + start, (size_t)size * sizeof *left);
        FN(descend)(t, size, left, out + start);
    }
}

/* u of draws `drawn` .. drawn + count - 1: the upper 53 bits of words 2 d and 2 d + 1, two draws a Philox block. Returns where
 * in `buffer` the first of them is. */
FGD_INLINE double *FN(uniforms)(const FN(fgd_philox) *p, uint64_t drawn, int64_t count, double *buffer)
{
    for (int64_t j = 0; j < count + (int64_t)(drawn & 1); j += 2 * FGD_WIDE) {
        FGD_WORDS even, odd;
        FN(fgd_philox_blocks)(p, (drawn + (uint64_t)j) / 2, &even, &odd);
        for (int k = 0; k < 2 * FGD_WIDE; k++)
            buffer[j + k] = (double)(int64_t)(((uint64_t)odd[k] << 32 | even[k]) >> 11) * 0x1p-53;
    }
    return buffer + (drawn & 1);
}

FGD_NOINLINE void FN(tree_sample)(const fgd_tree *t, uint64_t seed, uint64_t drawn, int method, int64_t count, int64_t *out)
{
    double buffer[GROUP + 1 + 2 * FGD_WIDE], mass[GROUP] __attribute__((aligned(64)));
    double total = fgd_tree_total(t), most = fgd_tree_below(total);
    FN(fgd_philox) p;
    FN(fgd_philox_start)(&p, seed, 0, FGD_STREAM_BITS);
    double shared = *FN(uniforms)(&p, drawn, 1, buffer);
    for (int64_t start = 0; start < count; start += GROUP) {
        int64_t size = FGD_MIN(count - start, GROUP);
        double *u = buffer;
        if (method != FGD_TREE_SYSTEMATIC)
            u = FN(uniforms)(&p, drawn + (uint64_t)start, size, buffer);
        for (int64_t j = 0; j < size; j++) {
            double part = method == FGD_TREE_SYSTEMATIC ? shared : u[j];
            if (method != FGD_TREE_IID)
                part = ((double)(start + j) + part) / (double)count;
            part *= total;
            mass[j] = part < most ? part : most;
        }
        FN(descend)(t, size, mass, out + start);
    }
}

/* Formula: the smallest positive and the largest leaf, and how many there are of each. The bits of numbers >= 0 are ordered as
 * the numbers, and less 1 as integers without a sign put 0 last. Cost: one read of the leaves; a second of a block of them that
 * holds an extreme. */
FGD_NOINLINE void FN(tree_extremes)(const double *leaf, int64_t count, fgd_extremes *e)
{
    fgd_extremes none = {INFINITY, 0.0, 0, 0, 0};
    *e = none;
    for (int64_t start = 0, size; start < count; start += size, leaf += size) {
        size = FGD_MIN(count - start, 1024);
        uint64_t least = UINT64_MAX, most = 0, x[1024];
        memcpy(x, leaf, (size_t)size * sizeof *x);
        for (int64_t j = 0; j < size; j++) {
            least = x[j] - 1 < least ? x[j] - 1 : least;
            most = x[j] > most ? x[j] : most;
        }
        least++;
        double low, high;
        memcpy(&low, &least, sizeof low);
        memcpy(&high, &most, sizeof high);
        if ((low > e->least && high < e->most) || most == 0)
            continue;
        for (int64_t j = 0; j < size; j++)
            fgd_tree_enter(e, leaf[j]);
    }
}

#undef GROUP
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
