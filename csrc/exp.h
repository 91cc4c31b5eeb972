/* exp and log of vectors of doubles, to about 1 ulp, the same bits on every machine. Part of a body file (isa.h). No FMA, no
 * table. For single numbers outside the clones: exp_scalar.h.
 *
 * exp: x = k log 2 + r with |r| <= log(2) / 2. The upper part of log 2 has 39 digits, so that k times it is exact. q = e^r - 1
 *      is Taylor's sum up to r^13: what is left out is below r^14 / 14! < 5e-18. e^x = 2^k (1 + q), with 2^k in two factors:
 *      each is in range, and a subnormal result is rounded once.
 * log: x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2). With s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2 s + s R,
 *      R = sum_j 2 s^(2j) / (2j + 1), and 2 s = f - f^2/2 + s f^2/2, where f is exact and the rest is small beside it. The
 *      sum ends at s^20: what is left out is below 2 s^22 / 23 < 2e-18.
 */
#include "doubles.h"

#ifdef FGD_LEVEL

/* e^x for -1400 <= x < 709.7; *less is e^x - 1, to an ulp or two also where x is near 0. */
FGD_INLINE VEC FN(exp_d)(VEC x, VEC *less)
{
    const double shift = 0x1.8p52; /* adding it rounds to an integer, which then stands in the last bits */
    VEC shifted = x * 0x1.71547652b82fep0 + shift, k = shifted - shift;
    INT whole = (INT)shifted - (INT)ALL(shift);
    INT half = (INT)((WORDS)(whole + 2048) >> 1) - 1024; /* whole / 2, rounded down */
    VEC r = (x - k * 0x1.62e42fefa4p-1) - k * -0x1.8432a1b0e2634p-43, s = r * r;
    VEC even = 1.0 / 6 + s * (1.0 / 120 + s * (1.0 / 5040 + s * (1.0 / 362880 + s * (1.0 / 39916800 + s * (1.0 / 6227020800)))));
    VEC odd = 1.0 / 24 + s * (1.0 / 720 + s * (1.0 / 40320 + s * (1.0 / 3628800 + s * (1.0 / 479001600))));
    VEC q = r + (s * 0.5 + (r * s) * (even + r * odd));
    VEC one = (VEC)((half + 1023) << 52), two = (VEC)((whole - half + 1023) << 52), scale = one * two;
    *less = scale * q + (scale - 1.0);
    return (1.0 + q) * one * two;
}

/* log(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2), plus k log 2. */
FGD_INLINE VEC FN(log_near_one_d)(VEC f, VEC k)
{
    VEC s = f / (2.0 + f), z = s * s, square = 0.5 * f * f;
    VEC r = ALL(2.0 / 21);
    r = 2.0 / 19 + z * r;
    r = 2.0 / 17 + z * r;
    r = 2.0 / 15 + z * r;
    r = 2.0 / 13 + z * r;
    r = 2.0 / 11 + z * r;
    r = 2.0 / 9 + z * r;
    r = 2.0 / 7 + z * r;
    r = 2.0 / 5 + z * r;
    r = z * (2.0 / 3 + z * r);
    return k * 0x1.62e42fefa4p-1 - ((square - (s * (square + r) + k * -0x1.8432a1b0e2634p-43)) - f);
}

/* log x of finite x > 0. */
FGD_INLINE VEC FN(log_d)(VEC x)
{
    INT tiny = x < 0x1p-1022;
    x = SELECT(tiny, x * 0x1p54, x);
    INT up = (INT)x - 0x3fe6a09e667f3bcd; /* the bits of sqrt(1/2): what is above it goes to the exponent */
    INT exponent = (INT)((WORDS)(up + ((int64_t)1024 << 52)) >> 52) - 1024;
    VEC k = (VEC)(exponent + (INT)ALL(0x1.8p52)) - 0x1.8p52;
    VEC f = (VEC)((INT)x - (INT)((WORDS)exponent << 52)) - 1.0;
    return FN(log_near_one_d)(f, k - SELECT(tiny, ALL(54.0), ALL(0.0)));
}

#endif
