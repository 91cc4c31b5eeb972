/* Single precision of the Sinkhorn sweeps: sixteen lanes, PARTS vectors of WIDTH. */
#if FGD_LEVEL == 2
#define VEC v16f
#define INT v16i
#define WIDTH 16
#elif FGD_LEVEL == 1
#define VEC v8f
#define INT v8si
#define WIDTH 8
#else
#define VEC v4f
#define INT v4si
#define WIDTH 4
#endif
#define PARTS (16 / WIDTH)
#define TN(name) FN(name##_f)
#define REAL float
#define OF(t, field) ((t)->field##_single)
#define SHIFT 0x1.8p20f
#define PLACE 20
#define LEAST -120.0f /* these as in sinkhorn_double.h */
#define GREATEST 120.0f
#define SMALL 0x1p-80
#define LARGE 0x1p100
#define SWELL 0x1p30

FGD_INLINE VEC FN(smaller_f)(VEC v, VEC w)
{
#if FGD_LEVEL == 2
    return (VEC)_mm512_min_ps((__m512)v, (__m512)w);
#elif FGD_LEVEL == 1
    return (VEC)_mm256_min_ps((__m256)v, (__m256)w);
#else
    return SELECT(v < w, v, w);
#endif
}

FGD_INLINE VEC FN(kept_f)(VEC e, VEC v)
{
#if FGD_LEVEL == 2
    return (VEC)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(LEAST), _CMP_GT_OQ), (__m512)e);
#else
    return (VEC)((INT)e & (INT)(v > LEAST));
#endif
}

/* The bits of 2^(j/8) less j 2^20, for j = n mod 8. */
FGD_INLINE INT FN(eighth_f)(INT n)
{
    static const int32_t table[16] = {
        0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
        0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
    };
#if FGD_LEVEL == 2
    return (INT)_mm512_permutexvar_epi32((__m512i)n, _mm512_loadu_si512(table));
#elif FGD_LEVEL == 1
    return (INT)_mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)table), (__m256i)n);
#else
    INT v;
    for (int l = 0; l < WIDTH; l++)
        v[l] = table[n[l] & 7];
    return v;
#endif
}

/* 2^r for |r| <= 1/16, to 6e-8 */
FGD_INLINE VEC FN(near_zero_f)(VEC r)
{
    VEC q = 0x1.ec0f92p-3f + r * 0x1.c6a5a2p-5f;
    q = 0x1.62e430p-1f + r * q;
    return 1.0f + r * q;
}

FGD_INLINE double FN(total_f)(const VEC *x)
{
    float l[16];
    memcpy(l, x, sizeof l);
    for (int half = 8; half; half /= 2)
        for (int k = 0; k < half; k++)
            l[k] += l[k + half];
    return (double)l[0];
}
