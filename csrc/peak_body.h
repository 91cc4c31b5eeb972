/* Chains of multiply-adds in registers, for one instruction set (isa.h): `steps` of them in each of FGD_CHAINS chains.
 * Returns the flops done, two a lane; the baseline, which has no FMA unit, multiplies and adds. */

#if FGD_LEVEL == 2
#define VF v16f
#define VD v8d
#define MADD_F(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MADD_D(a, b, c) _mm512_fmadd_pd(a, b, c)
#elif FGD_LEVEL == 1
#define VF v8f
#define VD v4d
#define MADD_F(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MADD_D(a, b, c) _mm256_fmadd_pd(a, b, c)
#else
#define VF v4f
#define VD v2d
#define MADD_F(a, b, c) ((a) * (b) + (c))
#define MADD_D(a, b, c) ((a) * (b) + (c))
#endif

#define PEAK(name, V, REAL, MADD)                                   \
    static double FN(name)(int64_t steps)                           \
    {                                                               \
        V sum[FGD_CHAINS], x = (V){0} + (REAL)0.5, y = x;           \
        for (int i = 0; i < FGD_CHAINS; i++)                        \
            sum[i] = x;                                             \
        for (int64_t step = 0; step < steps; step++) {              \
            _Pragma("GCC unroll 16") for (int i = 0; i < FGD_CHAINS; i++) \
                sum[i] = MADD(sum[i], x, y);                        \
        }                                                           \
        volatile REAL sink = 0;                                     \
        for (int i = 0; i < FGD_CHAINS; i++)                        \
            sink += sum[i][0];                                      \
        return 2.0 * (double)steps * FGD_CHAINS * (sizeof(V) / sizeof(REAL)); \
    }

PEAK(peak_f, VF, float, MADD_F)
PEAK(peak_d, VD, double, MADD_D)

#undef PEAK
#undef VF
#undef VD
#undef MADD_F
#undef MADD_D
