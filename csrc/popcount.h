/* Hamming distance of two bit strings. Part of a body file (isa.h).
 *
 * Formula: the number of ones in a xor b.
 * Cost:    for 16 vectors of the machine's width 15 carry-save adders (5 logical operations, 2 where three-input logic
 *          exists) and one popcount by parallel sums within bytes (about 10); no popcount instruction is needed.
 * Order:   integers: any.
 */

typedef uint64_t FN(units) __attribute__((vector_size(FGD_LEVEL == 2 ? 64 : FGD_LEVEL == 1 ? 32 : 16)));
#define VU FN(units)

/* One digit of the sum of three bits in each place: *sum keeps the low one, the high one is returned. */
FGD_INLINE VU FN(carry)(VU *sum, VU b, VU c)
{
    VU a = *sum;
#if FGD_X86_CLONES && FGD_LEVEL == 2 /* gcc makes four instructions of these two */
    *sum = (VU)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
    return (VU)_mm512_ternarylogic_epi64((__m512i)a, (__m512i)b, (__m512i)c, 0xE8);
#else
    VU half = a ^ b;
    *sum = half ^ c;
    return (a & b) | (half & c);
#endif
}

/* The ones of each byte. */
FGD_INLINE VU FN(byte_counts)(VU v)
{
    v -= (v >> 1) & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
    return (v + (v >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
}

/* The sum of all bytes. */
FGD_INLINE int64_t FN(byte_sum)(VU v)
{
    int64_t total = 0;
    v = (v & 0x00FF00FF00FF00FFu) + ((v >> 8) & 0x00FF00FF00FF00FFu);
    for (size_t l = 0; l < sizeof v / 8; l++)
        total += (int64_t)(v[l] * 0x0001000100010001u >> 48);
    return total;
}

FGD_INLINE VU FN(load_xor)(const uint8_t *a, const uint8_t *b)
{
    VU left, right;
    memcpy(&left, a, sizeof left);
    memcpy(&right, b, sizeof right);
    return left ^ right;
}

FGD_INLINE int64_t FN(word_count)(uint64_t v)
{
#if FGD_LEVEL > 0
    return __builtin_popcountll(v); /* one instruction from x86-64-v2 on */
#else
    v -= (v >> 1) & 0x5555555555555555u;
    v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
    return (int64_t)(((v + (v >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * 0x0101010101010101u >> 56);
#endif
}

FGD_NOINLINE int64_t FN(difference)(const uint8_t *a, const uint8_t *b, int64_t width)
{
    enum { UNIT = sizeof(VU) };
    int64_t total = 0, at = 0;
    VU ones = {0}, twos = {0}, fours = {0}, eights = {0}, bytes = {0};
    int64_t sixteens = 0;
    for (int rounds = 0; at + 16 * UNIT <= width; at += 16 * UNIT) {
        VU four[2], eight[2];
        for (int h = 0; h < 2; h++) {
            for (int g = 0; g < 2; g++) {
                const uint8_t *p = a + at + (8 * h + 4 * g) * UNIT, *q = b + at + (8 * h + 4 * g) * UNIT;
                VU two = FN(carry)(&ones, FN(load_xor)(p, q), FN(load_xor)(p + UNIT, q + UNIT));
                VU more = FN(carry)(&ones, FN(load_xor)(p + 2 * UNIT, q + 2 * UNIT), FN(load_xor)(p + 3 * UNIT, q + 3 * UNIT));
                four[g] = FN(carry)(&twos, two, more);
            }
            eight[h] = FN(carry)(&fours, four[0], four[1]);
        }
        bytes += FN(byte_counts)(FN(carry)(&eights, eight[0], eight[1]));
        if (++rounds == 31) { /* 31 * 8 is the most a byte holds */
            sixteens += FN(byte_sum)(bytes);
            bytes = (VU){0};
            rounds = 0;
        }
    }
    if (at > 0)
        total = 16 * (sixteens + FN(byte_sum)(bytes)) + 8 * FN(byte_sum)(FN(byte_counts)(eights)) +
                4 * FN(byte_sum)(FN(byte_counts)(fours)) + 2 * FN(byte_sum)(FN(byte_counts)(twos)) +
                FN(byte_sum)(FN(byte_counts)(ones));
    if (at + UNIT <= width) {
        bytes = (VU){0};
        for (; at + UNIT <= width; at += UNIT)
            bytes += FN(byte_counts)(FN(load_xor)(a + at, b + at));
        total += FN(byte_sum)(bytes);
    }
    for (; at + 8 <= width; at += 8) {
        uint64_t left, right;
        memcpy(&left, a + at, 8);
        memcpy(&right, b + at, 8);
        total += FN(word_count)(left ^ right);
    }
    for (; at < width; at++)
        total += FN(word_count)(a[at] ^ b[at]);
    return total;
}

#undef VU
