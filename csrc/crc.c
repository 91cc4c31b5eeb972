/* CRC-32 with the reflected polynomial 0xEDB88320, as in zlib, Ethernet and PNG.
 *
 * Cost: with carry-less multiplication 64 bytes take eight of them (Gopal et al., Intel 2009: four 128-bit remainders are moved
 * forward by 512 bits at a time, then joined); without, and for the last bytes, eight table look-ups take 8 bytes.
 */
#include "compress_api.h"
#include "simd.h"

static uint32_t table[8][256]; /* table[k][v]: the checksum of byte v followed by k zeros */

__attribute__((constructor)) static void fill_table(void)
{
    for (uint32_t v = 0; v < 256; v++) {
        uint32_t crc = v;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xEDB88320u & -(crc & 1));
        table[0][v] = crc;
    }
    for (uint32_t v = 0; v < 256; v++)
        for (int k = 1; k < 8; k++)
            table[k][v] = (table[k - 1][v] >> 8) ^ table[0][table[k - 1][v] & 255];
}

/* The remainder after `bytes` more bytes. */
static uint32_t by_table(uint32_t crc, const uint8_t *p, int64_t bytes)
{
    for (; bytes >= 8; bytes -= 8, p += 8) {
        crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = table[7][crc & 255] ^ table[6][crc >> 8 & 255] ^ table[5][crc >> 16 & 255] ^ table[4][crc >> 24] ^
              table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    for (; bytes > 0; bytes--, p++)
        crc = (crc >> 8) ^ table[0][(crc ^ *p) & 255];
    return crc;
}

#if FGD_X86_CLONES
/* x^(512 + 64), x^512 and x^(128 + 64), x^128 modulo the polynomial, reflected, one bit up. */
#define FOLD_512 _mm_set_epi64x(0x1c6e41596, 0x154442bd4)
#define FOLD_128 _mm_set_epi64x(0x0ccaa009e, 0x1751997d0)

__attribute__((target("pclmul,sse4.1"))) static __m128i fold(__m128i remainder, __m128i by, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(remainder, by, 0x00), high = _mm_clmulepi64_si128(remainder, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* Whole 64 bytes, two of them at least; what is left of them is 16 bytes with the same remainder. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t by_multiplying(uint32_t crc, const uint8_t *p, int64_t bytes)
{
    __m128i part[4];
    for (int k = 0; k < 4; k++)
        part[k] = _mm_loadu_si128((const __m128i *)p + k);
    part[0] = _mm_xor_si128(part[0], _mm_cvtsi32_si128((int)crc));
    for (p += 64, bytes -= 64; bytes >= 64; p += 64, bytes -= 64)
        for (int k = 0; k < 4; k++)
            part[k] = fold(part[k], FOLD_512, _mm_loadu_si128((const __m128i *)p + k));
    for (int k = 1; k < 4; k++)
        part[0] = fold(part[0], FOLD_128, part[k]);
    uint8_t rest[16];
    memcpy(rest, part, sizeof rest);
    return by_table(0, rest, sizeof rest);
}
#endif

static uint32_t crc32(uint32_t crc, const void *data, int64_t bytes)
{
    const uint8_t *p = data;
    crc = ~crc;
#if FGD_X86_CLONES
    int64_t whole = bytes / 64 * 64;
    if (whole >= 128 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
        crc = by_multiplying(crc, p, whole);
        p += whole;
        bytes -= whole;
    }
#endif
    return ~by_table(crc, p, bytes);
}

uint32_t fgd_crc32_payload(const uint8_t *payload, int64_t bytes)
{
    enum { HEADER = 32, OWN = 4 };
    return crc32(crc32(0, payload, HEADER - OWN), payload + HEADER, bytes - HEADER);
}
