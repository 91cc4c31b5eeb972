/* exp and log of 8 doubles, about 1 ulp, the same bits on every machine. Part of a body file (isa.h). No FMA, no
 * table. For single numbers outside the clones: exp_scalar.h.
 *
 * exp: x = k log 2 + r with |r| <= log(2) / 2. The upper part of log 2 has 40 digits, so that k times it is exact. q = e^r - 1
 *      is Taylor's sum up to r^13: what is left out is below r^14 / 14! < 5e-18. e^x = 2^k (1 + q), with 2^k in two factors:
 *      each is in range, and a subnormal result is rounded once.
 * log: x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2). With s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2 s + s R,
 *      R = sum_j 2 s^(2j) / (2j + 1), and 2 s = f - f^2/2 + s f^2/2, where f is exact and the rest is small beside it. The
 *      sum ends at s^20: what is left out is below 2 s^22 / 23 < 2e-18.
 */
#ifdef FGD_LEVEL

/* e^x; *less is e^x - 1, to an ulp or two also where x is near 0. 0 below -746, infinite from 709.8 on, no NaN. */
FGD_INLINE v8d FN(exp8)(v8d x, v8d *less)
{
    const double shift = 0x1.8p52; /* adding it rounds to an integer, which then stands in the last bits */
    v8i low = x < -746.0, high = x > 710.0;
    x = (v8d)(((v8i)x & ~(low | high)) | ((v8i)((v8d){0} - 746.0) & low) | ((v8i)((v8d){0} + 710.0) & high));
    v8d shifted = x * 0x1.71547652b82fep0 + shift, k = shifted - shift;
    v8i whole = (v8i)shifted - (v8i)((v8d){0} + shift), half = whole >> 1;
    v8d r = (x - k * 0x1.62e42fefa4p-1) - k * -0x1.8432a1b0e2634p-43, s = r * r;
    v8d even = 1.0 / 6 + s * (1.0 / 120 + s * (1.0 / 5040 + s * (1.0 / 362880 + s * (1.0 / 39916800 + s * (1.0 / 6227020800)))));
    v8d odd = 1.0 / 24 + s * (1.0 / 720 + s * (1.0 / 40320 + s * (1.0 / 3628800 + s * (1.0 / 479001600))));
    v8d q = r + (s * 0.5 + (r * s) * (even + r * odd));
    v8d one = (v8d)((half + 1023) << 52), two = (v8d)((whole - half + 1023) << 52), scale = one * two;
    *less = scale * q + (scale - 1.0);
    return (1.0 + q) * one * two;
}

/* log(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2), plus k log 2. */
FGD_INLINE v8d FN(log_near_one)(v8d f, v8d k)
{
    v8d s = f / (2.0 + f), z = s * s, square = 0.5 * f * f;
    v8d r = (v8d){0} + 2.0 / 21;
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
FGD_INLINE v8d FN(log8)(v8d x)
{
    v8i tiny = x < 0x1p-1022;
    x = (v8d)(((v8i)x & ~tiny) | ((v8i)(x * 0x1p54) & tiny));
    v8i up = (v8i)x - 0x3fe6a09e667f3bcd; /* sqrt(1/2): what is above it goes to the exponent */
    v8d k = (v8d)((up >> 52) + (v8i)((v8d){0} + 0x1.8p52)) - 0x1.8p52;
    v8d m = (v8d)((v8i)x - ((up >> 52) << 52));
    return FN(log_near_one)(m - 1.0, k + (v8d)(tiny & (v8i)((v8d){0} - 54.0)));
}
#endif
