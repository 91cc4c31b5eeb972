/* exp, expm1, log, log1p in plain arithmetic: the same bits on every machine, which a C library's do not promise. At most 2 ulp
 * off over the ranges in use; about 25 operations each. */
#ifndef FGD_DRO_EXP_H
#define FGD_DRO_EXP_H

#include "simd.h"

static const double FGD_LN2_HIGH = 0x1.62e42feep-1, FGD_LN2_LOW = 0x1.a39ef35793c76p-33; /* 33 bits, so that k * high is exact */

/* e^r - 1 - r for |r| <= 0.35: Taylor's series up to r^13 */
FGD_INLINE double fgd_exp_rest(double r)
{
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    return p * r * r;
}

FGD_INLINE double fgd_power_of_two(int64_t k) /* -1022 <= k <= 1023 */
{
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

FGD_INLINE double fgd_exp(double x)
{
    if (!(x > -746.0))
        return 0.0;
    if (x > 709.0)
        return INFINITY;
    double k = x * 0x1.71547652b82fep0 + 0x1.8p52 - 0x1.8p52; /* rounded to an integer */
    double r = (x - k * FGD_LN2_HIGH) - k * FGD_LN2_LOW;
    int64_t whole = (int64_t)k, half = whole / 2; /* in two factors: the result may be subnormal */
    return (1.0 + (r + fgd_exp_rest(r))) * fgd_power_of_two(half) * fgd_power_of_two(whole - half);
}

FGD_INLINE double fgd_expm1(double x)
{
    return x > -0.35 && x < 0.35 ? x + fgd_exp_rest(x) : fgd_exp(x) - 1.0;
}

/* 2 artanh f for |f| <= 0.18 */
FGD_INLINE double fgd_artanh_twice(double f)
{
    double g = f * f, p = 2.0 / 23.0;
    p = p * g + 2.0 / 21.0;
    p = p * g + 2.0 / 19.0;
    p = p * g + 2.0 / 17.0;
    p = p * g + 2.0 / 15.0;
    p = p * g + 2.0 / 13.0;
    p = p * g + 2.0 / 11.0;
    p = p * g + 2.0 / 9.0;
    p = p * g + 2.0 / 7.0;
    p = p * g + 2.0 / 5.0;
    p = p * g + 2.0 / 3.0;
    return 2.0 * f + p * g * f;
}

FGD_INLINE double fgd_log(double x) /* x >= 0 */
{
    if (x == 0.0)
        return -INFINITY;
    double shift = 0.0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        shift = -54.0;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t k = (int64_t)((bits - 0x3FE6A09E667F3BCDu) >> 52); /* x / 2^k in [sqrt(1/2), sqrt(2)) */
    k = k >= 2048 ? k - 4096 : k;
    bits -= (uint64_t)k << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    shift += (double)k;
    return shift * FGD_LN2_HIGH + (fgd_artanh_twice((m - 1.0) / (m + 1.0)) + shift * FGD_LN2_LOW);
}

FGD_INLINE double fgd_log1p(double x) /* x >= 0 */
{
    return x < 0.4 ? fgd_artanh_twice(x / (2.0 + x)) : fgd_log(1.0 + x);
}

#endif
