/* Counter-based random numbers for the kernels: Philox 4x32-10 on vectors of counters, and a keyed 32-bit mix.
 *
 * A source file includes it once before isa.h (the scalar part, which must be compiled for the baseline to be inlined
 * everywhere) and its body once per instruction set (the vectors). The definitions are those of fastgd/random/__init__.py.
 */
#ifndef FGD_RNG_H
#define FGD_RNG_H

#include "simd.h"

/* Which of the independent Philox streams of one (seed, step): the counter's last word. */
enum { FGD_STREAM_BITS = 0, FGD_STREAM_SIGNS = 1, FGD_STREAM_NORMAL = 2 };

/* The finaliser of SplitMix64 (Stafford's variant 13). */
FGD_INLINE uint64_t fgd_mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Wellons' lowbias32: a bijection whose avalanche bias is 0.17 in units of 10^-3. */
FGD_INLINE uint32_t fgd_mix32(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* The two words that key the mix for 2^32 consecutive indices: those whose upper half is `high`. */
typedef struct {
    uint32_t outer, inner;
} fgd_hash_key;

FGD_INLINE fgd_hash_key fgd_hash_start(uint64_t seed, uint32_t step, uint32_t high)
{
    uint64_t key = fgd_mix64(fgd_mix64(seed) + ((uint64_t)step + 1) * 0x9E3779B97F4A7C15u);
    uint32_t segment = fgd_mix32(high);
    fgd_hash_key k = {(uint32_t)key ^ segment, (uint32_t)(key >> 32) + segment};
    return k;
}

/* 32 bits for an index with that upper half. The second key word enters between the rounds: two keys are then no mere
 * permutation of each other's indices. Plain loops over it vectorise. */
FGD_INLINE uint32_t fgd_hash32(uint32_t low, fgd_hash_key k)
{
    uint32_t x = low ^ k.outer;
    x = (x ^ (x >> 16)) * 0x7FEB352Du ^ k.inner;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

#endif

#ifdef FGD_LEVEL
/* ---- for one instruction set: vectors as wide as its registers, FGD_WIDE 64-bit lanes or twice as many 32-bit lanes */

#if FGD_LEVEL == 2
#define FGD_WIDE 8
#elif FGD_LEVEL == 1
#define FGD_WIDE 4
#else
#define FGD_WIDE 2
#endif
typedef uint64_t FN(fgd_quads) __attribute__((vector_size(8 * FGD_WIDE)));
typedef uint32_t FN(fgd_words) __attribute__((vector_size(8 * FGD_WIDE)));
#define FGD_QUADS FN(fgd_quads)
#define FGD_WORDS FN(fgd_words)

/* Products of the lower halves of 64-bit lanes; the upper halves of a and b do not matter. */
FGD_INLINE FGD_QUADS FN(fgd_product)(FGD_QUADS a, FGD_QUADS b)
{
#if FGD_X86_CLONES && FGD_LEVEL == 2
    return (FGD_QUADS)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif FGD_X86_CLONES && FGD_LEVEL == 1
    return (FGD_QUADS)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif FGD_X86_CLONES
    return (FGD_QUADS)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

/* Everything of a Philox call but the blocks' numbers, in every lane: the round keys and the counter's upper half. */
typedef struct {
    FGD_QUADS key[10][2], step, stream;
} FN(fgd_philox);

FGD_INLINE void FN(fgd_philox_start)(FN(fgd_philox) *p, uint64_t seed, uint32_t step, uint32_t stream)
{
    FGD_QUADS zero = {0};
    p->step = zero + step;
    p->stream = zero + stream;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        p->key[round][0] = zero + k0;
        p->key[round][1] = zero + k1;
    }
}

/* Philox 4x32-10 (Salmon et al. 2011) for FGD_WIDE consecutive blocks, from number `block` on. Lane 2j and 2j + 1 of *even
 * are words 0 and 2 of block j, of *odd words 1 and 3: interleaved they are the stream in order.
 *
 * Each word lives in the lower half of a 64-bit lane; what is in the upper half never reaches a product. */
FGD_INLINE void FN(fgd_philox_blocks)(const FN(fgd_philox) *p, uint64_t block, FGD_WORDS *even, FGD_WORDS *odd)
{
    FGD_QUADS lane;
    for (int j = 0; j < FGD_WIDE; j++)
        lane[j] = (uint64_t)j;
    FGD_QUADS zero = {0}, m0 = zero + 0xD2511F53u, m1 = zero + 0xCD9E8D57u;
    FGD_QUADS c0 = lane + block, c1 = c0 >> 32, c2 = p->step, c3 = p->stream;
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        FGD_QUADS a = FN(fgd_product)(c0, m0), b = FN(fgd_product)(c2, m1);
        c0 = (b >> 32) ^ c1 ^ p->key[round][0];
        c2 = (a >> 32) ^ c3 ^ p->key[round][1];
        c1 = b;
        c3 = a;
    }
    *even = (FGD_WORDS)((c0 & 0xFFFFFFFFu) | (c2 << 32));
    *odd = (FGD_WORDS)((c1 & 0xFFFFFFFFu) | (c3 << 32));
}
#endif
