/* Uniform numbers for draws: u of draw d is the upper 53 bits of words 2 d and 2 d + 1 of a seed's and step's Philox stream. */
#ifndef FGD_DRO_DRAWS_H
#define FGD_DRO_DRAWS_H

#include "dro_api.h"
#include "random_api.h"
#include "simd.h"

FGD_INLINE double fgd_uniform_of(uint32_t low, uint32_t high)
{
    return (double)(int64_t)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

/* u of one draw: Philox 4x32-10 of one counter, of whose four words two draws take two each. */
FGD_INLINE double fgd_uniform(uint64_t seed, uint32_t step, uint64_t drawn)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32), c[4] = {(uint32_t)(drawn >> 1), (uint32_t)(drawn >> 33), step, 0};
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = (uint64_t)c[0] * 0xD2511F53u, b = (uint64_t)c[2] * 0xCD9E8D57u;
        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)b;
        c[3] = (uint32_t)a;
    }
    const uint32_t *w = c + 2 * (drawn & 1);
    return fgd_uniform_of(w[0], w[1]);
}

/* u of draws drawn .. drawn + count - 1, at most 128. */
FGD_INLINE void fgd_uniforms(uint64_t seed, uint32_t step, uint64_t drawn, int64_t count, double *u)
{
    if (count == 1) {
        *u = fgd_uniform(seed, step, drawn);
        return;
    }
    uint32_t word[256];
    fgd_job job = {0};
    fgd_random_bits32(seed, step, 2 * drawn, 2 * count, word, &job);
    for (int64_t j = 0; j < count; j++)
        u[j] = fgd_uniform_of(word[2 * j], word[2 * j + 1]);
}

#endif
