/* Reading and writing the vectors of fgd_rows in any dtype. Scalar functions, which a source file must include before its
 * body so that they are compiled for the baseline, and vector loads for body files (isa.h).
 *
 * The halves are widened exactly by integer arithmetic on their bits, so every instruction set gives the same values.
 */

#ifndef FGD_ROWS_ONCE
#define FGD_ROWS_ONCE

enum { FGD_F32, FGD_F64, FGD_F16, FGD_BF16 };

static inline int64_t fgd_itemsize(int32_t dtype)
{
    return dtype == FGD_F32 ? 4 : dtype == FGD_F64 ? 8 : 2;
}

/* Row i of a layer. */
static inline const char *fgd_row(const fgd_layer *layer, int64_t i)
{
    return layer->row ? layer->row[i] : layer->base + i * layer->stride;
}

/* The double nearest to v that has `digits` binary digits and no digit below 2^lowest; ties to even. */
static inline double fgd_round_to(double v, int digits, int lowest)
{
    int exponent;
    frexp(v, &exponent);
    int last = FGD_MAX(exponent - digits, lowest);
    double shift = ldexp(0x1.8p52, last); /* adding it leaves room for no digit below 2^last */
    /* Far above the halves' range there is nothing to round; -0 and what rounds to it keep their sign. */
    return fabs(v) < 0x1p200 ? copysign(v + shift - shift, v) : v;
}

/* Write one coordinate, rounded once from double to the layer's dtype. */
static inline void fgd_store(char *p, int32_t dtype, double v)
{
    float f;
    uint32_t bits;
    uint16_t half;
    switch (dtype) {
    case FGD_F32:
        f = (float)v;
        memcpy(p, &f, sizeof f);
        return;
    case FGD_F64:
        memcpy(p, &v, sizeof v);
        return;
    case FGD_F16:
        v = fabs(v) >= 65520.0 ? v * INFINITY : fgd_round_to(v, 11, -24);
        f = (float)v * 0x1p-112f; /* exact: the exponents of the two formats are 112 apart */
        memcpy(&bits, &f, sizeof bits);
        half = v != v ? 0x7e00 : fabs(v) == INFINITY ? 0x7c00 : (uint16_t)((bits >> 13) & 0x7fff);
        half |= (uint16_t)((bits >> 16) & 0x8000);
        break;
    default:
        f = (float)fgd_round_to(v, 8, -133);
        memcpy(&bits, &f, sizeof bits);
        half = v != v ? 0x7fc0 : (uint16_t)(bits >> 16);
    }
    memcpy(p, &half, sizeof half);
}

#endif

#ifdef FGD_LEVEL

/* float16 -> float: the 15 low bits are those of a float 2^-112 times as large, except Inf and NaN. */
FGD_INLINE v16f FN(widen_f16)(v16u h)
{
    v16u magnitude = (h & 0x7fffu) << 13;
    v16u special = (v16u)(magnitude >= 0x0f800000u) & 0x7f800000u;
    v16u bits = (v16u)((v16f)magnitude * 0x1p112f) | special | ((h & 0x8000u) << 16);
    return (v16f)bits;
}

/* 16 coordinates of a float32, float16 or bfloat16 row. */
FGD_INLINE v16f FN(load_f)(const char *p, int32_t dtype)
{
    if (dtype == FGD_F32) {
        v16f v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    v16h h;
    memcpy(&h, p, sizeof h);
    v16u wide = __builtin_convertvector(h, v16u);
    return dtype == FGD_F16 ? FN(widen_f16)(wide) : (v16f)(wide << 16);
}

/* 8 coordinates of a float64 row, or of any other dtype widened. */
FGD_INLINE v8d FN(load_d)(const char *p, int32_t dtype)
{
    if (dtype == FGD_F64) {
        v8d v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    if (dtype == FGD_F32) {
        v8f v;
        memcpy(&v, p, sizeof v);
        return __builtin_convertvector(v, v8d);
    }
    char pair[32] = {0};
    memcpy(pair, p, 16);
    v16f v = FN(load_f)(pair, dtype);
    v8f low;
    memcpy(&low, &v, sizeof low);
    return __builtin_convertvector(low, v8d);
}

/* The last coordinates of a row, count < lanes; zeros follow. */
FGD_INLINE v16f FN(load_tail_f)(const char *p, int32_t dtype, int64_t count)
{
    char padded[64] = {0};
    memcpy(padded, p, (size_t)(count * fgd_itemsize(dtype)));
    return FN(load_f)(padded, dtype);
}

FGD_INLINE v8d FN(load_tail_d)(const char *p, int32_t dtype, int64_t count)
{
    char padded[64] = {0};
    memcpy(padded, p, (size_t)(count * fgd_itemsize(dtype)));
    return FN(load_d)(padded, dtype);
}
#endif
