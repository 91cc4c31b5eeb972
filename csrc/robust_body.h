/* The kernels of the room `robust`, for one instruction set (isa.h).
 *
 * Four kernels carry the room: squared distances of all pairs (pairwise.h) and to one point (point.h), linear combinations
 * (combine.h; one factor a vector: scale.h), and means over windows of ranks by sorting networks (rank.h), each for float (16
 * lanes, sums in double) and double (8 lanes, compensated sums).
 * The halves are floats as soon as they are loaded. Column chunks are handed out by tickets.
 */
#include "rows.h"

/* Whether every lane of a comparison holds. */
FGD_INLINE int FN(all)(v8i mask)
{
#if FGD_LEVEL == 2 /* gcc 12 takes the vector apart, lane by lane */
    return _mm512_movepi64_mask((__m512i)mask) == 0xff;
#else
    return ((mask[0] & mask[1]) & (mask[2] & mask[3]) & (mask[4] & mask[5]) & (mask[6] & mask[7])) != 0;
#endif
}

/* Copy a cache line without reading its place into the cache. Other threads see it after FN(streamed). */
FGD_INLINE void FN(stream)(char *to, const char *from)
{
#if FGD_LEVEL == 2
    _mm512_stream_ps((float *)to, *(const __m512 *)from);
#elif FGD_X86_CLONES
    for (int b = 0; b < 64; b += 16)
        _mm_stream_ps((float *)(to + b), *(const __m128 *)(from + b));
#else
    memcpy(to, from, 64);
#endif
}

FGD_INLINE void FN(streamed)(void)
{
#if FGD_X86_CLONES
    _mm_sfence();
#endif
}

#ifndef RANK_AHEAD
#define GROUP 2           /* panels of packed rows kept in the first-level cache */
#define RANK_AHEAD 512    /* bytes that loads are ahead of their use */
#define COMBINE_AHEAD 1024
#define POINT_AHEAD 1024
#endif

/* Doubles as wide as the machine's registers, where four are no more than two of them, and the masks of comparisons. */
#if FGD_LEVEL == 2
#define WIDE v8d
#define WIDE_KEYS v8i
#else
#define WIDE v4d
#define WIDE_KEYS v4i
#endif

/* ============================================================================================================== float */

#define TN(name) FN(name##_f)
#define REAL float
#define LANES 16
#define LANES_OF v16f
#define KEY v16i
#define SIGNED int32_t
#define SIGN_SHIFT 31
#define MAGNITUDE 0x7fffffff
#define INFINITE 0x7f800000
#define LOAD FN(load_f)
#define LOAD_TAIL FN(load_tail_f)
#define ACC FN(acc_f)
#define MIDDLE(a, b) ((a) + (b)) /* no sum of two floats overflows in double */
/* Call a function with the layer's dtype, and `full` tiles, as constants: one loop for each, without branches. */
#define FOR_DTYPE(dtype, full, call, layer, n, lo, width, ...)                             \
    do {                                                                                    \
        int64_t width_ = full ? VECTORS * LANES : (width);                                  \
        if ((dtype) == FGD_F32 && (full))                                                   \
            call(layer, n, lo, VECTORS * LANES, __VA_ARGS__, FGD_F32);                      \
        else if ((dtype) == FGD_F32)                                                        \
            call(layer, n, lo, width_, __VA_ARGS__, FGD_F32);                               \
        else if ((dtype) == FGD_F16)                                                        \
            call(layer, n, lo, width_, __VA_ARGS__, FGD_F16);                               \
        else                                                                                \
            call(layer, n, lo, width_, __VA_ARGS__, FGD_BF16);                              \
    } while (0)
#define VECTORS 4
#define SMALL 0x1p-100 /* below it, squares may have lost digits to float's subnormals */

#if FGD_LEVEL == 2
#define WIDEN(x) (v8d) _mm512_cvtps_pd((__m256)(x)) /* gcc 12 converts the halves of a vector one by one */
#else
#define WIDEN(x) __builtin_convertvector(x, v4d)
#endif

/* A sum of LANES columns. */
typedef struct {
    v8d half[2];
} ACC;

FGD_INLINE void FN(add_f)(ACC *acc, v16f x, double weight)
{
#if FGD_LEVEL == 2 /* the intrinsic is one instruction, where gcc makes four of __builtin_convertvector */
    v8f half[2];
    memcpy(half, &x, sizeof x);
    acc->half[0] += weight * WIDEN(half[0]);
    acc->half[1] += weight * WIDEN(half[1]);
#else /* gcc takes vectors wider than the machine's apart, element by element, when it converts or compares them */
    v4f part[4];
    v4d *sum = (v4d *)acc;
    memcpy(part, &x, sizeof x);
    for (int h = 0; h < 4; h++)
        sum[h] += weight * WIDEN(part[h]);
#endif
}

/* 16 floats as doubles */
FGD_INLINE void FN(widen_to_f)(double *place, v16f x)
{
#if FGD_LEVEL == 2
    v8f half[2];
    memcpy(half, &x, sizeof x);
    ((v8d *)place)[0] = WIDEN(half[0]);
    ((v8d *)place)[1] = WIDEN(half[1]);
#else
    v4f part[4];
    memcpy(part, &x, sizeof x);
    for (int h = 0; h < 4; h++)
        ((v4d *)place)[h] = __builtin_convertvector(part[h], v4d);
#endif
}

/* Add the rows in `mask` of a tile to the sums of its 64 columns, 8 registers of them at a time. */
FGD_NOINLINE void FN(add_tile_f)(const double *tile, uint32_t mask, const double *weights, int unit, ACC *sums)
{
    for (int c = 0; c < 64; c += 8 * (int)(sizeof(WIDE) / 8)) {
        WIDE acc[8], *sum = (WIDE *)((double *)sums + c);
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++)
            acc[v] = sum[v];
        for (uint32_t left = mask; left; left &= left - 1) {
            int i = __builtin_ctz(left);
            const WIDE *x = (const WIDE *)(tile + 64 * i + c);
            if (unit)
#pragma GCC unroll 8
                for (int v = 0; v < 8; v++)
                    acc[v] += x[v];
            else
#pragma GCC unroll 8
                for (int v = 0; v < 8; v++)
                    acc[v] += weights[i] * x[v];
        }
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++)
            sum[v] = acc[v];
    }
}

/* acc / divisor in double */
FGD_INLINE void FN(divide_f)(const ACC *acc, double divisor, double *y)
{
    v8d low = acc->half[0] / divisor, high = acc->half[1] / divisor;
    memcpy(y, &low, sizeof low);
    memcpy(y + 8, &high, sizeof high);
}

#if FGD_LEVEL == 2
#define KEYS v16i
#define KEYS_MIN(a, b) (v16i) _mm512_min_epi32((__m512i)(a), (__m512i)(b))
#define KEYS_MAX(a, b) (v16i) _mm512_max_epi32((__m512i)(a), (__m512i)(b))
#define PART v8f
#define VEC v16f
#define WIDTH 16
#define SQUARE(t, s) _mm512_fmadd_ps(t, t, s)
#define MULTIPLY(x, y, s) _mm512_fmadd_ps(x, y, s)
#elif FGD_LEVEL == 1
#define KEYS v8si
#define KEYS_MIN(a, b) (v8si) _mm256_min_epi32((__m256i)(a), (__m256i)(b))
#define KEYS_MAX(a, b) (v8si) _mm256_max_epi32((__m256i)(a), (__m256i)(b))
#define PART v4f
#define VEC v8f
#define WIDTH 8
#define SQUARE(t, s) _mm256_fmadd_ps(t, t, s)
#define MULTIPLY(x, y, s) _mm256_fmadd_ps(x, y, s)
#else
#define KEYS v4si
#define KEYS_MIN(a, b) (((a) & ((a) < (b))) | ((b) & ~((a) < (b))))
#define KEYS_MAX(a, b) (((b) & ((a) < (b))) | ((a) & ~((a) < (b))))
#define PART v4f
#define VEC v4f
#define WIDTH 4
#define SQUARE(t, s) FN(multiply_add)(t, t, s)
#define MULTIPLY(x, y, s) FN(multiply_add)(x, y, s)

/* fma(x, y, s) without an FMA unit, to the bit: x * y is exact in double; the sum is rounded to odd there, so that rounding
 * it to float is the only rounding that shows (Boldo, Melquiond 2008). An even sum moves towards what was rounded off: away
 * from zero, one bit up, where that has the sum's sign. */
FGD_INLINE v4f FN(multiply_add)(v4f x, v4f y, v4f s)
{
    v4d p = __builtin_convertvector(x, v4d) * __builtin_convertvector(y, v4d), c = __builtin_convertvector(s, v4d);
    v4d sum = p + c, back = sum - p;
    v4d error = (p - (sum - back)) + (c - back);
    v4i inexact = (v4i)(error > 0.0) | (v4i)(error < 0.0), even = ~(v4i)sum & 1;
    v4i inward = ((v4i)error ^ (v4i)sum) >> 63;
    return __builtin_convertvector((v4d)((v4i)sum + (inexact & even & (1 | inward))), v4f);
}
#endif

/* The sums of 8 vectors of 16 lanes: lanes 8 apart are added, then 4, 2, 1 apart, in float. Every shuffle stays within the
 * halves of a register or swaps them whole, which AVX2 can do as well. */
FGD_INLINE void FN(fold_f)(const float *lanes, double *sums)
{
    v8f x[8], four[4], two[2], one;
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        x[i] = *(const v8f *)(lanes + 16 * i) + *(const v8f *)(lanes + 16 * i + 8);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        four[i] = __builtin_shuffle(x[i], x[i + 4], (v8si){0, 1, 2, 3, 8, 9, 10, 11}) +
                  __builtin_shuffle(x[i], x[i + 4], (v8si){4, 5, 6, 7, 12, 13, 14, 15});
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = __builtin_shuffle(four[2 * i], four[2 * i + 1], (v8si){0, 1, 8, 9, 4, 5, 12, 13}) +
                 __builtin_shuffle(four[2 * i], four[2 * i + 1], (v8si){2, 3, 10, 11, 6, 7, 14, 15});
    one = __builtin_shuffle(two[0], two[1], (v8si){0, 2, 8, 10, 4, 6, 12, 14}) +
          __builtin_shuffle(two[0], two[1], (v8si){1, 3, 9, 11, 5, 7, 13, 15});
    *(v8d *)sums = __builtin_convertvector(one, v8d);
}

FGD_INLINE double FN(fold_one_f)(const float *l)
{
    float x[8];
    for (int i = 0; i < 8; i++)
        x[i] = l[i] + l[i + 8];
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

#include "write.h"
#include "pairwise.h"
#include "gram.h"
#include "rank.h"
#include "combine.h"
#include "point.h"
#include "scale.h"
#include "undefine.h"

/* ============================================================================================================= double */

#define TN(name) FN(name##_d)
#define REAL double
#define LANES 8
#define LANES_OF v8d
#define KEY v8i
#define SIGNED int64_t
#define SIGN_SHIFT 63
#define MAGNITUDE 0x7fffffffffffffff
#define INFINITE 0x7ff0000000000000
#define LOAD FN(load_d)
#define LOAD_TAIL FN(load_tail_d)
#define ACC FN(acc_d)
#define PART WIDE
#define WIDEN(x) (x)
#define MIDDLE(a, b) (0.5 * (a) + 0.5 * (b))
#define FOR_DTYPE(dtype, full, call, layer, n, lo, width, ...)                             \
    do {                                                                                    \
        if (full)                                                                           \
            call(layer, n, lo, VECTORS * LANES, __VA_ARGS__, FGD_F64);                      \
        else                                                                                \
            call(layer, n, lo, width, __VA_ARGS__, FGD_F64);                                \
    } while (0)
#define VECTORS 4
#define SMALL 0x1p-1000

/* A compensated sum of LANES columns: `error` collects what rounding took from `sum`. */
typedef struct {
    v8d sum, error;
} ACC;

FGD_INLINE void FN(add_d)(ACC *acc, v8d x, double weight)
{
    v8d term = weight * x, sum = acc->sum + term, back = sum - acc->sum;
    acc->error += (acc->sum - (sum - back)) + (term - back);
    acc->sum = sum;
}

FGD_INLINE void FN(widen_to_d)(double *place, v8d x)
{
    memcpy(place, &x, sizeof x);
}

/* Add the rows in `mask` of a tile to the sums of its 32 columns. */
FGD_NOINLINE void FN(add_tile_d)(const double *tile, uint32_t mask, const double *weights, int unit, ACC *sums)
{
    (void)unit;
    for (int c = 0; c < 4; c += 2) {
        ACC acc[2] = {sums[c], sums[c + 1]};
        for (uint32_t left = mask; left; left &= left - 1) {
            int i = __builtin_ctz(left);
            const v8d *x = (const v8d *)(tile + 32 * i) + c;
            FN(add_d)(acc, x[0], weights[i]);
            FN(add_d)(acc + 1, x[1], weights[i]);
        }
        sums[c] = acc[0];
        sums[c + 1] = acc[1];
    }
}

/* The error of the rounded product y * b, without FMA (Dekker 1971). */
FGD_INLINE v8d FN(product_error)(v8d y, double b, v8d product)
{
    v8d big = y * 0x1.0000002p27, high = big - (big - y), low = y - high;
    double big_b = b * 0x1.0000002p27, high_b = big_b - (big_b - b), low_b = b - high_b;
    return ((high * high_b - product) + high * low_b + low * high_b) + low * low_b;
}

/* acc / divisor, refined by one step of long division: what y * divisor leaves of the sum, in all its digits. Lanes whose
 * sum overflowed come out not finite. A correction of zero is not added, which keeps -0. */
FGD_INLINE void FN(divide_d)(const ACC *acc, double divisor, double *result)
{
    v8d rest = acc->error, sum = acc->sum + rest;
    sum = (v8d)(((v8i)acc->sum & (rest == 0.0)) | ((v8i)sum & (rest != 0.0)));
    v8d y = sum / divisor, product = y * divisor;
    v8d correction = (((acc->sum - product) - FN(product_error)(y, divisor, product)) + rest) / divisor;
    v8d refined = y + correction;
    refined = (v8d)(((v8i)y & (correction == 0.0)) | ((v8i)refined & (correction != 0.0)));
    memcpy(result, &refined, sizeof refined);
}

/* The sums of 8 vectors of 8 lanes, ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7)) each, folded side by side. */
FGD_INLINE void FN(fold_d)(const double *lanes, double *sums)
{
    const v8d *x = (const v8d *)lanes;
    v8d four[4], two[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        four[i] = __builtin_shuffle(x[2 * i], x[2 * i + 1], (v8i){0, 1, 2, 3, 8, 9, 10, 11}) +
                  __builtin_shuffle(x[2 * i], x[2 * i + 1], (v8i){4, 5, 6, 7, 12, 13, 14, 15});
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
        two[i] = __builtin_shuffle(four[2 * i], four[2 * i + 1], (v8i){0, 1, 4, 5, 8, 9, 12, 13}) +
                 __builtin_shuffle(four[2 * i], four[2 * i + 1], (v8i){2, 3, 6, 7, 10, 11, 14, 15});
    *(v8d *)sums = __builtin_shuffle(two[0], two[1], (v8i){0, 2, 4, 6, 8, 10, 12, 14}) +
                   __builtin_shuffle(two[0], two[1], (v8i){1, 3, 5, 7, 9, 11, 13, 15});
}

FGD_INLINE double FN(fold_one_d)(const double *x)
{
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/* No FMA for double: the baseline lacks it, and memory is the limit. */
#define SQUARE(t, s) (t * t + s)
#define MULTIPLY(x, y, s) (x * y + s)
#if FGD_LEVEL == 2
#define KEYS v8i
#define KEYS_MIN(a, b) (v8i) _mm512_min_epi64((__m512i)(a), (__m512i)(b))
#define KEYS_MAX(a, b) (v8i) _mm512_max_epi64((__m512i)(a), (__m512i)(b))
#define VEC v8d
#define WIDTH 8
#else
#define KEYS_MIN(a, b) (((a) & ((a) < (b))) | ((b) & ~((a) < (b))))
#define KEYS_MAX(a, b) (((b) & ((a) < (b))) | ((a) & ~((a) < (b))))
#if FGD_LEVEL == 1
#define KEYS v4i
#define VEC v4d
#define WIDTH 4
#else
#define KEYS v2i
#define VEC v2d
#define WIDTH 2
#endif
#endif

#include "write.h"
#include "pairwise.h"
#include "rank.h"
#include "combine.h"
#include "point.h"
#include "scale.h"
#include "undefine.h"

#include "robust_jobs.h"

#undef WIDE
#undef WIDE_KEYS
