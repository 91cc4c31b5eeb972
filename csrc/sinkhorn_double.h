/* Double arithmetic of the Sinkhorn sweeps: vectors as in doubles.h. */
#define TN(name) FN(name##_d)
#define REAL double
#define OF(t, field) ((t)->field)
#define SHIFT 0x1.8p49
#define PLACE 49
#define LEAST -960.0
#define GREATEST 1000.0
#define SMALL 0x1p-800  /* sums of exponentials from here .. */
#define LARGE 0x1p900   /* .. to here are right: those below LEAST do not matter, and none was cut to GREATEST; */
#define SWELL 0x1p200   /* nor do they matter in columns, after a factor up to this one (sums: fold_step) */

FGD_INLINE VEC FN(smaller_d)(VEC v, VEC w)
{
#if FGD_LEVEL == 2 /* gcc 12 makes a mask and a blend of the comparison */
    return (VEC)_mm512_min_pd((__m512d)v, (__m512d)w);
#elif FGD_LEVEL == 1
    return (VEC)_mm256_min_pd((__m256d)v, (__m256d)w);
#else
    return SELECT(v < w, v, w);
#endif
}

/* e where v > LEAST, else 0 */
FGD_INLINE VEC FN(kept_d)(VEC e, VEC v)
{
#if FGD_LEVEL == 2
    return (VEC)_mm512_maskz_mov_pd(_mm512_cmp_pd_mask((__m512d)v, _mm512_set1_pd(LEAST), _CMP_GT_OQ), (__m512d)e);
#else
    return (VEC)((INT)e & (INT)(v > LEAST));
#endif
}

/* The bits of 2^(j/8) less j 2^49, for j = n mod 8. */
#if FGD_LEVEL != 1
static const int64_t FN(eighths)[8] = {0x3ff0000000000000, 0x3fef72b83c7d517b, 0x3fef06fe0a31b715, 0x3feebfdad5362a27,
                                       0x3feea09e667f3bcd, 0x3feeace5422aa0db, 0x3feee89f995ad3ad, 0x3fef5818dcfba487};
#endif

FGD_INLINE INT FN(eighth_d)(INT n)
{
#if FGD_LEVEL == 2
    return (INT)_mm512_permutexvar_epi64((__m512i)n, _mm512_loadu_si512(FN(eighths)));
#elif FGD_LEVEL == 1 /* the halves of the entries apart, by permutations of eight words */
    const __m256i low = _mm256_setr_epi32(0, 0x3c7d517b, 0x0a31b715, (int)0xd5362a27, 0x667f3bcd, 0x422aa0db, (int)0x995ad3ad,
                                          (int)0xdcfba487);
    const __m256i high = _mm256_setr_epi32(0x3ff00000, 0x3fef72b8, 0x3fef06fe, 0x3feebfda, 0x3feea09e, 0x3feeace5, 0x3feee89f,
                                           0x3fef5818);
    __m256i both = _mm256_shuffle_epi32((__m256i)n, 0xa0);
    return (INT)_mm256_blend_epi32(_mm256_permutevar8x32_epi32(low, both), _mm256_permutevar8x32_epi32(high, both), 0xaa);
#else
    INT v;
    for (int l = 0; l < WIDTH; l++)
        v[l] = FN(eighths)[n[l] & 7];
    return v;
#endif
}

/* 2^r for |r| <= 1/16: the polynomial of least relative error, 9e-16, among those that are 1 at 0 */
FGD_INLINE VEC FN(near_zero_d)(VEC r)
{
    VEC q = 0x1.5d8f116167897p-10 + r * 0x1.4317c8f2fc5dfp-13;
    q = 0x1.3b2ab6ca122e9p-7 + r * q;
    q = 0x1.c6b08d53aecd2p-5 + r * q;
    q = 0x1.ebfbdff82ce54p-3 + r * q;
    q = 0x1.62e42fefa3d8dp-1 + r * q;
    return 1.0 + r * q;
}

FGD_INLINE double FN(total_d)(const VEC *x)
{
    return FN(sum_d)(x);
}
