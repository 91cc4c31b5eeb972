/* Decoding QSGD, Int8, FP8, TernGrad and Natural, for one instruction set; included by compress_levels_body.h. */

/* The codes [lo, lo + count), a byte each: in the body, or unpacked into `room`. */
FGD_INLINE const uint8_t *FN(codes_at)(const fgd_layout *l, int64_t n, int64_t lo, int64_t count, uint8_t *room)
{
    if (l->width == 8)
        return l->codes + lo;
    FN(unpack)(l->codes, (n * l->width + 7) / 8, lo, count, l->width, room);
    return room;
}

/* Whether every code is one that exists, and zero where the step is. */
static int FN(codes_exist)(const fgd_layout *l, const uint8_t *steps, int64_t n)
{
    uint8_t room[FGD_BLOCK];
    for (int64_t lo = 0; lo < n; lo += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, n - lo);
        const uint8_t *code = FN(codes_at)(l, n, lo, count, room);
        uint8_t most = 0, bias = l->bias, mask = l->mask;
        for (int64_t i = 0; i < count; i++) {
            uint8_t key = (uint8_t)((code[i] + bias) & mask);
            most = FGD_MAX(most, key);
        }
        if (most > l->last)
            return 0;
        for (int64_t b = lo / l->bucket; b * l->bucket < lo + count; b++) {
            uint32_t step;
            memcpy(&step, steps + 4 * b, sizeof step);
            uint8_t other = 0;
            if (step == 0)
                for (int64_t i = FGD_MAX(b * l->bucket, lo); i < FGD_MIN((b + 1) * l->bucket, lo + count); i++)
                    other |= code[i - lo] ^ l->zero;
            if (other)
                return 0;
        }
    }
    return 1;
}

/* Natural: whether an exponent is 255, or a sign stands where it is 0. */
static void FN(natural_faults)(const uint8_t *body, int64_t n, int *code, int *sign)
{
    uint32_t most = 0, wrong = 0;
    for (int64_t at = 0; at < n; at += FGD_UNIT) {
        size_t count = (size_t)FGD_MIN(FGD_UNIT, n - at);
        uint8_t exponent[FGD_UNIT] = {0};
        uint32_t word = 0;
        memcpy(exponent, body + at, count);
        memcpy(&word, body + n + at / 8, (count + 7) / 8);
        if (count < FGD_UNIT)
            word &= ((uint32_t)1 << count) - 1;
        for (int l = 0; l < FGD_UNIT; l++) {
            uint32_t e = exponent[l];
            most = FGD_MAX(most, e);
            wrong |= e ? 0 : word & (uint32_t)1 << l;
        }
    }
    *code = most > 254;
    *sign = wrong != 0;
}

/* The number that a code of FP8 stands for: (2^fraction + m) 2^(e - ..), or m 2^(1 - ..) where e is 0. */
FGD_INLINE float FN(minifloat_value)(uint8_t code, const int fraction, const int least)
{
    int32_t exponent = (code & 127) >> fraction, m = code & ((1 << fraction) - 1);
    m += exponent ? 1 << fraction : 0;
    exponent = exponent ? exponent : 1;
    float unit = fgd_float_of((uint32_t)(exponent - 1 + 127 + least - fraction) << 23);
    float value = (float)m * unit;
    return fgd_float_of(fgd_bits_of(value) | (uint32_t)(code & 128) << 24);
}

FGD_INLINE void FN(add_part)(const int kind, const int add, const uint8_t *code, int64_t count, int32_t offset, float step,
                             float scale, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        float value;
        if (kind == FGD_NEAREST)
            value = (float)(int8_t)code[i];
        else if (kind == FGD_STOCHASTIC)
            value = (float)((int32_t)code[i] - offset);
        else if (kind == FGD_TERNARY)
            value = (float)((int32_t)(code[i] & 1) - (code[i] >> 1));
        else
            value = kind == FGD_E4M3 ? FN(minifloat_value)(code[i], 3, -6) : FN(minifloat_value)(code[i], 2, -14);
        float c = value * step;
        out[i] = add ? out[i] + scale * c : c;
    }
}

#define CASES(kind)                                                                                                              \
    FGD_NOINLINE void FN(add_part_##kind)(int add, const uint8_t *code, int64_t count, int32_t offset, float step, float scale, \
                                          float *out)                                                                            \
    {                                                                                                                            \
        if (add)                                                                                                                 \
            FN(add_part)(kind, 1, code, count, offset, step, scale, out);                                                        \
        else                                                                                                                     \
            FN(add_part)(kind, 0, code, count, offset, step, scale, out);                                                        \
    }
CASES(FGD_NEAREST)
CASES(FGD_STOCHASTIC)
CASES(FGD_E4M3)
CASES(FGD_E5M2)
CASES(FGD_TERNARY)
#undef CASES

/* `count` codes that share a step: out_i = c_i, or out_i + fl(scale c_i). */
static void FN(decode_part)(int kind, int add, const uint8_t *code, int64_t count, int32_t offset, float step, float scale,
                            float *out)
{
#define CALL(kind) FN(add_part_##kind)(add, code, count, offset, step, scale, out)
    if (kind == FGD_NEAREST)
        CALL(FGD_NEAREST);
    else if (kind == FGD_STOCHASTIC)
        CALL(FGD_STOCHASTIC);
    else if (kind == FGD_E4M3)
        CALL(FGD_E4M3);
    else if (kind == FGD_E5M2)
        CALL(FGD_E5M2);
    else
        CALL(FGD_TERNARY);
#undef CALL
}

/* Formula: c_i = value(code_i) * step of i's bucket; out_i = c_i, or out_i + fl(scale c_i). lo a multiple of 8.
 * Cost:    reads the codes, writes (and with add reads) out.
 */
static void FN(add_levels)(const fgd_layout *l, const uint8_t *steps, int64_t n, int64_t lo, int64_t hi, float scale, int add,
                           float *out)
{
    uint8_t room[FGD_BLOCK];
    for (; lo < hi; lo += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, hi - lo);
        const uint8_t *code = FN(codes_at)(l, n, lo, count, room);
        for (int64_t at = lo; at < lo + count;) {
            int64_t b = at / l->bucket, end = FGD_MIN((b + 1) * l->bucket, lo + count);
            float step;
            memcpy(&step, steps + 4 * b, sizeof step);
            FN(decode_part)(l->kind, add, code + (at - lo), end - at, l->offset, step, scale, out + at);
            at = end;
        }
    }
}

/* c_i = 2^(exponent - 127), signed. */
static void FN(add_natural)(const uint8_t *body, int64_t n, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    const uint8_t *signs = body + n;
    for (int64_t at = lo; at < hi; at += FGD_UNIT) {
        int64_t count = FGD_MIN(FGD_UNIT, hi - at);
        uint8_t code[FGD_UNIT] = {0};
        uint32_t word = 0, c[FGD_UNIT];
        float value[FGD_UNIT];
        memcpy(code, body + at, (size_t)count);
        memcpy(&word, signs + at / 8, (size_t)(count + 7) / 8);
        for (int l = 0; l < FGD_UNIT; l++)
            c[l] = (uint32_t)code[l] << 23 | (word & (uint32_t)1 << l ? 0x80000000u : 0);
        memcpy(value, c, sizeof value);
        for (int64_t l = 0; l < count; l++)
            out[at + l] = add ? out[at + l] + scale * value[l] : value[l];
    }
}
