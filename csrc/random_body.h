/* The kernels of the room `random`, for one instruction set (isa.h).
 *
 * The streams are cut into tiles of 128 words (32 Philox blocks), aligned in the stream: whole tiles go straight to the
 * result, the two ends through a buffer. Every element depends on its index alone, so the order of work cannot matter.
 */
#include "rng.h"

typedef float FN(fgd_floats) __attribute__((vector_size(8 * FGD_WIDE)));
typedef int32_t FN(fgd_ints) __attribute__((vector_size(8 * FGD_WIDE)));
#define VW FGD_WORDS
#define VF FN(fgd_floats)
#define VI FN(fgd_ints)

/* Write a[0], b[0], a[1], b[1], .. */
FGD_INLINE void FN(interleave)(VW a, VW b, void *out)
{
#if FGD_WIDE == 8
    VW low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    VW high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
#elif FGD_WIDE == 4
    VW low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
#else
    VW low = {0, 4, 1, 5}, high = {2, 6, 3, 7};
#endif
    VW both[2] = {__builtin_shuffle(a, b, low), __builtin_shuffle(a, b, high)};
    memcpy(out, both, sizeof both);
}

/* The upper 12 of 24 significant bits: the product of two such numbers is exact. */
FGD_INLINE VF FN(head)(VF x)
{
    return (VF)((VW)x & 0xFFFFF000u);
}

FGD_INLINE VF FN(root)(VF x)
{
#if FGD_X86_CLONES && FGD_LEVEL == 2
    return (VF)_mm512_sqrt_ps((__m512)x);
#elif FGD_X86_CLONES && FGD_LEVEL == 1
    return (VF)_mm256_sqrt_ps((__m256)x);
#elif FGD_X86_CLONES
    return (VF)_mm_sqrt_ps((__m128)x);
#else
    for (int j = 0; j < 2 * FGD_WIDE; j++)
        x[j] = __builtin_sqrtf(x[j]);
    return x;
#endif
}

/* Correctly rounded. Written out where there is no such instruction: both halves are exact, the sum is rounded once. */
FGD_INLINE VF FN(to_float)(VW x)
{
#if FGD_LEVEL == 2
    return __builtin_convertvector(x, VF);
#else
    return __builtin_convertvector((VI)(x >> 16), VF) * 0x1p16f + __builtin_convertvector((VI)(x & 0xFFFF), VF);
#endif
}

/* Formula: the Box-Muller pair r cos(angle), r sin(angle), r = sqrt(-2 ln u), u = a / 2^32 (half a step for a = 0), angle =
 * 2 pi b / 2^32. The same operations, in the same order, as fastgd/random/scalar.py, where they are explained.
 * Cost: about 110 vector operations, a square root and a division per vector of pairs.
 * Accuracy: every quantity that enters the last product is a head of 12 bits plus a tail, so the error is one rounding
 * and a little: at most 1.15 ulp in 1e8 draws, above 0.6 ulp in 1% of them. No fused multiply-add: the same bits
 * everywhere. */

/* The radius: -ln u = count ln 2 - ln mantissa, mantissa in [2/3, 4/3). */
FGD_INLINE void FN(radius)(VW a, VF *head, VF *tail)
{
    VF v = FN(to_float)(a) + (VF)((VW)(a == 0) & 0x3F000000u);
    VI bits = (VI)v - 0x3F2AAAAB;
    VF x = 1.0f - (VF)((bits & 0x7FFFFF) + 0x3F2AAAAB);
    VF count = __builtin_convertvector(32 - (bits >> 23), VF);
    VF p = 0x1.0e2ad2p-3f * x + 0x1.1df344p-3f;
    p = p * x + 0x1.f03c0ep-4f;
    p = p * x + 0x1.1ef19cp-3f;
    p = p * x + 0x1.55b7e8p-3f;
    p = p * x + 0x1.99ce42p-3f;
    p = p * x + 0x1.fffe5ep-3f;
    p = p * x + 0x1.55550cp-2f;
    p = (p * x + 0.5f) * (x * x);
    VF whole = count * 0x1.62e4p-1f;
    VF high = whole + x;
    VF low = (x - (high - whole)) + (count * 0x1.7f7d1cp-20f + p);
    high += high;
    low += low;
    VF r = FN(root)(high + low);
    VF r_head = FN(head)(r);
    *head = r_head;
    *tail = ((high - r_head * r_head) + low) / ((r + r_head) + 1e-30f);
}

/* The angle from the nearest quarter turn, exact as an integer; then radius times cosine and sine. */
FGD_INLINE void FN(turn)(VW b, VF r_head, VF r_tail, VF *first, VF *second)
{
    VW turned = b + 0x20000000u;
    VI t = (VI)(turned & 0x3FFFFFFFu) - 0x20000000;
    VF t_round = __builtin_convertvector(t, VF);
    VF t_head = FN(head)(t_round);
    VF t_tail = __builtin_convertvector(t - __builtin_convertvector(t_head, VI), VF);
    VF main = t_head * 0x1.92p-30f;
    VF rest = t_tail * 0x1.92p-30f + t_round * 0x1.fb5444p-42f;
    VF y = main + rest;
    VF y_head = FN(head)(y);
    VF y_tail = (main - y_head) + rest;
    VF z = y * y;
    VF sine_tail = y_tail + (z * y) * ((z * -0x1.994e88p-13f + 0x1.110760p-7f) * z - 0x1.555546p-3f);
    VF square = y_head * (0.5f * y_head);
    VF cosine_head = FN(head)(1.0f - square);
    VF quartic = (z * z) * ((z * 0x1.9a0232p-16f - 0x1.6c0c8cp-10f) * z + 0x1.55554ap-5f);
    VF cosine_tail = ((1.0f - cosine_head) - square) + (quartic - y_tail * ((y + y_head) * 0.5f));

    VF cosine = r_head * cosine_head + (r_head * cosine_tail + r_tail * (cosine_head + cosine_tail));
    VF sine = r_head * y_head + (r_head * sine_tail + r_tail * (y_head + sine_tail));

    VW quarter = turned >> 30;
    VW swapped = ((VW)cosine ^ (VW)sine) & -(quarter & 1);
    *first = (VF)((VW)cosine ^ swapped ^ (((quarter + 1) & 2) << 30));
    *second = (VF)((VW)sine ^ swapped ^ ((quarter & 2) << 30));
}

/* ---- tiles: TILE consecutive elements */

enum { FN(BITS), FN(UNIFORM), FN(NORMAL) };

#define TILE 128
#define TILE_VECTORS (TILE / (4 * FGD_WIDE))

/* Phase by phase, not vector by vector: the chains of dependent operations in each are then short enough for the machine
 * to work on several at once. */
FGD_INLINE void FN(tile)(int kind, const FN(fgd_philox) *p, uint64_t tile, void *out)
{
    VW even[TILE_VECTORS], odd[TILE_VECTORS];
    VF head[TILE_VECTORS], tail[TILE_VECTORS];
    for (int k = 0; k < TILE_VECTORS; k++)
        FN(fgd_philox_blocks)(p, tile * (TILE / 4) + (uint64_t)(k * FGD_WIDE), &even[k], &odd[k]);
    if (kind == FN(NORMAL))
        for (int k = 0; k < TILE_VECTORS; k++)
            FN(radius)(even[k], &head[k], &tail[k]);
    for (int k = 0; k < TILE_VECTORS; k++) {
        VW first = even[k], second = odd[k];
        if (kind == FN(UNIFORM)) { /* below 2^24: exact, and signed conversions are the ones every machine has */
            first = (VW)(__builtin_convertvector((VI)(first >> 8), VF) * 0x1p-24f);
            second = (VW)(__builtin_convertvector((VI)(second >> 8), VF) * 0x1p-24f);
        } else if (kind == FN(NORMAL)) {
            VF cosine, sine;
            FN(turn)(odd[k], head[k], tail[k], &cosine, &sine);
            first = (VW)cosine;
            second = (VW)sine;
        }
        FN(interleave)(first, second, (uint32_t *)out + 4 * FGD_WIDE * k);
    }
}

/* Elements start .. start + size - 1 of a stream, as 32-bit words. Cost: 4 bytes written an element. */
FGD_INLINE void FN(fill)(int kind, uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out)
{
    FN(fgd_philox) p;
    FN(fgd_philox_start)(&p, seed, step, kind == FN(NORMAL) ? FGD_STREAM_NORMAL : FGD_STREAM_BITS);
    uint32_t buffer[TILE] __attribute__((aligned(64)));
    uint64_t tile = start / TILE;
    int64_t inside = (int64_t)(start % TILE);
    if (inside) {
        int64_t count = FGD_MIN(TILE - inside, size);
        FN(tile)(kind, &p, tile++, buffer);
        memcpy(out, buffer + inside, (size_t)count * 4);
        out += count;
        size -= count;
    }
    for (; size >= TILE; size -= TILE, out += TILE)
        FN(tile)(kind, &p, tile++, out);
    if (size > 0) {
        FN(tile)(kind, &p, tile, buffer);
        memcpy(out, buffer, (size_t)size * 4);
    }
}

FGD_NOINLINE void FN(bits32)(uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out)
{
    FN(fill)(FN(BITS), seed, step, start, size, out);
}

FGD_NOINLINE void FN(uniform)(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out)
{
    FN(fill)(FN(UNIFORM), seed, step, start, size, (uint32_t *)out);
}

FGD_NOINLINE void FN(normal)(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out)
{
    FN(fill)(FN(NORMAL), seed, step, start, size, (uint32_t *)out);
}

/* Formula: the keyed mix of each index. Cost: two multiplications and 4 bytes written an element. */
FGD_NOINLINE void FN(hash32)(uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out)
{
    while (size > 0) {
        fgd_hash_key key = fgd_hash_start(seed, step, (uint32_t)(start >> 32));
        uint32_t low = (uint32_t)start;
        int64_t count = FGD_MIN(size, (int64_t)0x100000000 - low);
        for (int64_t j = 0; j < count; j++)
            out[j] = fgd_hash32(low + (uint32_t)j, key);
        out += count;
        start += (uint64_t)count;
        size -= count;
    }
}

/* ---- x += scale * noise: elements start .. of the stream, x pointing to the first of them */

/* Formula: x_i = fl(x_i + fl(scale z_i)). Cost: one read and one write of x, and the normals; no noise array. */
#define PERTURB_NORMAL(NAME, REAL)                                                                                     \
    FGD_NOINLINE void FN(NAME)(uint64_t seed, uint32_t step, uint64_t start, int64_t size, REAL scale, REAL *x)        \
    {                                                                                                                  \
        FN(fgd_philox) p;                                                                                              \
        FN(fgd_philox_start)(&p, seed, step, FGD_STREAM_NORMAL);                                                       \
        float z[TILE] __attribute__((aligned(64)));                                                                    \
        uint64_t tile = start / TILE;                                                                                  \
        for (; size >= TILE && start % TILE == 0; size -= TILE, start += TILE, x += TILE) {                            \
            FN(tile)(FN(NORMAL), &p, tile++, z);                                                                       \
            for (int j = 0; j < TILE; j++)                                                                             \
                x[j] += scale * (REAL)z[j];                                                                            \
        }                                                                                                              \
        for (int64_t j = 0; j < size; j++) {                                                                           \
            if (j == 0 || (start + (uint64_t)j) % TILE == 0)                                                           \
                FN(tile)(FN(NORMAL), &p, (start + (uint64_t)j) / TILE, z);                                             \
            x[j] += scale * (REAL)z[(start + (uint64_t)j) % TILE];                                                     \
        }                                                                                                              \
    }
PERTURB_NORMAL(perturb_normal_f32, float)
PERTURB_NORMAL(perturb_normal_f64, double)
#undef PERTURB_NORMAL

/* Formula: element i is +-1, the sign bit i mod 32 of word i / 32 of the stream; x_i = fl(x_i +- scale), or +-1 written.
 * Cost: one read and one write of x; 128 signs a Philox block. */
#define SIGNS(NAME, REAL, WORD, TOP, OPERATION)                                                                        \
    FGD_INLINE void FN(NAME##_word)(uint32_t word, int first, int last, REAL scale, REAL *x)                           \
    {                                                                                                                  \
        for (int j = first; j < last; j++) {                                                                           \
            WORD pattern;                                                                                              \
            REAL value;                                                                                                \
            memcpy(&pattern, &scale, sizeof pattern);                                                                  \
            pattern ^= (WORD)(word >> j) << TOP;                                                                       \
            memcpy(&value, &pattern, sizeof value);                                                                    \
            x[j - first] OPERATION value;                                                                              \
        }                                                                                                              \
    }                                                                                                                  \
    FGD_NOINLINE void FN(NAME)(uint64_t seed, uint32_t step, uint64_t start, int64_t size, REAL scale, REAL *x)        \
    {                                                                                                                  \
        FN(fgd_philox) p;                                                                                              \
        FN(fgd_philox_start)(&p, seed, step, FGD_STREAM_SIGNS);                                                        \
        uint32_t words[TILE] __attribute__((aligned(64)));                                                             \
        uint64_t i = start, end = start + (uint64_t)size;                                                              \
        while (i < end) {                                                                                              \
            uint64_t tile = i / (32 * TILE), tile_end = FGD_MIN(end, (tile + 1) * (32 * TILE));                        \
            FN(tile)(FN(BITS), &p, tile, words);                                                                       \
            while (i < tile_end) {                                                                                     \
                uint64_t first = i % 32, last = FGD_MIN(32, first + (tile_end - i));                                   \
                uint32_t word = words[i / 32 % TILE];                                                                  \
                if (last - first == 32)                                                                                \
                    FN(NAME##_word)(word, 0, 32, scale, x);                                                            \
                else                                                                                                   \
                    FN(NAME##_word)(word, (int)first, (int)last, scale, x);                                            \
                x += last - first;                                                                                     \
                i += last - first;                                                                                     \
            }                                                                                                          \
        }                                                                                                              \
    }
SIGNS(rademacher, float, uint32_t, 31, =)
SIGNS(perturb_rademacher_f32, float, uint32_t, 31, +=)
SIGNS(perturb_rademacher_f64, double, uint64_t, 63, +=)
#undef SIGNS

#undef TILE
#undef TILE_VECTORS
#undef VW
#undef VF
#undef VI
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
