/* Codes of w = 2 .. 8 bits: eight of them, a byte each, from and to w bytes, for one instruction set (isa.h).
 *
 * In a 64-bit word the codes are pushed together, or taken apart, in three steps: pairs of 8, of 16, of 32 bits. A loop over
 * words vectorises; the words then leave 8 bytes at a time, each over the previous one's unused end.
 */

/* w low bits of every `unit` bits. */
FGD_INLINE uint64_t FN(code_mask)(int width, int unit)
{
    uint64_t mask = ((uint64_t)1 << width) - 1;
    for (int at = unit; at < 64; at *= 2)
        mask |= mask << at;
    return mask;
}

/* Groups of eight codes into w bytes each; `out` has room for 8 bytes more. */
FGD_NOINLINE void FN(pack)(const uint8_t *codes, int64_t groups, int width, uint8_t *out)
{
    uint64_t first = FN(code_mask)(width, 16), second = FN(code_mask)(2 * width, 32), third = FN(code_mask)(4 * width, 64);
    int gap = 8 - width;
    for (int64_t g = 0; g < groups; g += 8) {
        uint64_t word[8] = {0};
        int64_t count = FGD_MIN(groups - g, 8);
        if (count == 8)
            memcpy(word, codes + 8 * g, sizeof word);
        else
            memcpy(word, codes + 8 * g, (size_t)(8 * count));
        for (int k = 0; k < 8; k++) {
            uint64_t v = word[k];
            v = (v & first) | (v >> gap & first << width);
            v = (v & second) | (v >> 2 * gap & second << 2 * width);
            word[k] = (v & third) | (v >> 4 * gap & third << 4 * width);
        }
        for (int64_t k = 0; k < count; k++)
            memcpy(out + (g + k) * width, word + k, 8);
    }
}

/* The reverse: `count` codes from number `from` on, a multiple of 8; `bytes` is where the packed codes end. */
FGD_NOINLINE void FN(unpack)(const uint8_t *packed, int64_t bytes, int64_t from, int64_t count, int width, uint8_t *codes)
{
    uint64_t first = FN(code_mask)(width, 16), second = FN(code_mask)(2 * width, 32), third = FN(code_mask)(4 * width, 64);
    int64_t groups = (count + 7) / 8;
    int gap = 8 - width;
    for (int64_t g = 0; g < groups; g += 8) {
        uint64_t word[8] = {0};
        int64_t at = (from / 8 + g) * width;
        if (at + 7 * width + 8 <= bytes)
            for (int k = 0; k < 8; k++)
                memcpy(word + k, packed + at + k * width, 8);
        else
            for (int k = 0; k < 8 && g + k < groups; k++, at += width)
                memcpy(word + k, packed + at, (size_t)FGD_MIN(8, bytes - at));
        for (int k = 0; k < 8; k++) {
            uint64_t v = word[k];
            v = (v & third) | (v << 4 * gap & third << 32);
            v = (v & second) | (v << 2 * gap & second << 16);
            word[k] = (v & first) | (v << gap & first << 8);
        }
        memcpy(codes + 8 * g, word, sizeof word);
    }
}
