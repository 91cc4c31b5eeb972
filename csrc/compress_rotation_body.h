/* Drive for one instruction set (isa.h). docs/wire.md fixes every bit.
 *
 * A block of 4096 floats stays in the first-level cache from its input to its codes and to the memory: the transform reads and
 * writes it twice (FAN = 16) or three times, FAN registers at a time going through all stages that they can.
 */
#include "rows.h"
#include "compress.h"
#include "rng.h"

/* ---- vectors as wide as the machine's registers */

#if FGD_LEVEL == 2
#define VEC v16f
#define INTS v16i
#define HALF v8d /* as many doubles as half a VEC holds floats */
#define WIDTH 16
#define FAN 16 /* vectors that fit into the registers, with room to work */
#define EACH(f) {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)}
#define FLAGS __mmask16
#define IS_NEGATIVE(v) _mm512_cmp_ps_mask((__m512)(v), _mm512_setzero_ps(), _CMP_LT_OQ)
#define IS_AT_LEAST(a, b) _mm512_cmp_ps_mask((__m512)(a), (__m512)(b), _CMP_GE_OQ)
#define BITS(flags) (uint32_t)(flags)
#define LOW(v) (v8d) _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)(v)))
#define HIGH(v) (v8d) _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)(v), 1))
#define LOOK_UP(table, index) (v16f) _mm512_permutexvar_ps((__m512i)(index), _mm512_loadu_ps(table))
#elif FGD_LEVEL == 1
#define VEC v8f
#define INTS v8si
#define HALF v4d
#define WIDTH 8
#define FAN 8
#define EACH(f) {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)}
#define FLAGS v8si
#define IS_NEGATIVE(v) ((v) < 0.0f)
#define IS_AT_LEAST(a, b) ((a) >= (b))
#define BITS(flags) (uint32_t) _mm256_movemask_ps((__m256)(flags))
#define LOW(v) (v4d) _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)(v)))
#define HIGH(v) (v4d) _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)(v), 1))
#define LOOK_UP(table, index) (v8f) _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)(index))
#else
#define VEC v4f
#define INTS v4si
#define HALF v2d
#define WIDTH 4
#define FAN 8
#define EACH(f) {f(0), f(1), f(2), f(3)}
#define FLAGS v4si
#define IS_NEGATIVE(v) ((v) < 0.0f)
#define IS_AT_LEAST(a, b) ((a) >= (b))
#define LOW(v) (v2d){(v)[0], (v)[1]}
#define HIGH(v) (v2d){(v)[2], (v)[3]}
#define LOOK_UP(table, index) (v4f){(table)[(index)[0]], (table)[(index)[1]], (table)[(index)[2]], (table)[(index)[3]]}
#if FGD_X86_CLONES
#define BITS(flags) (uint32_t) _mm_movemask_ps((__m128)(flags))
#else
#define BITS(flags) (uint32_t)(((flags)[0] & 1) | ((flags)[1] & 2) | ((flags)[2] & 4) | ((flags)[3] & 8))
#endif
#endif

enum { FN(TILE) = WIDTH * FAN, FN(PARTS) = FGD_LANES / WIDTH };

#define ONE_BIT(l) 1 << (l)

/* `v`, with the bits of `value` set in the lanes that are flagged. */
FGD_INLINE INTS FN(set)(INTS v, FLAGS flags, int32_t value)
{
#if FGD_LEVEL == 2
    return (INTS)_mm512_mask_or_epi32((__m512i)v, flags, (__m512i)v, _mm512_set1_epi32(value));
#else
    return v | (flags & value);
#endif
}

/* The lanes whose bit is set. */
FGD_INLINE FLAGS FN(flags)(uint32_t bits)
{
#if FGD_LEVEL == 2
    return (__mmask16)bits;
#else
    INTS lane = EACH(ONE_BIT);
    return (((INTS){0} + (int32_t)bits) & lane) != 0;
#endif
}

/* The other sign in the lanes whose bit is set. */
FGD_INLINE VEC FN(turn)(VEC v, uint32_t bits)
{
#if FGD_LEVEL == 2
    return (VEC)_mm512_mask_xor_epi32((__m512i)v, (__mmask16)bits, (__m512i)v, _mm512_set1_epi32(INT32_MIN));
#else
    return (VEC)((INTS)v ^ (FN(flags)(bits) & INT32_MIN));
#endif
}

/* a b + c, where a b is exact: whether it is fused changes nothing. */
FGD_INLINE VEC FN(exact_madd)(VEC a, VEC b, VEC c)
{
#if FGD_LEVEL == 2
    return (VEC)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FGD_LEVEL == 1
    return (VEC)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

FGD_INLINE HALF FN(exact_madd_d)(HALF a, HALF b, HALF c)
{
#if FGD_LEVEL == 2
    return (HALF)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif FGD_LEVEL == 1
    return (HALF)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

/* ---- the Hadamard transform, not normalised, in place
 *
 * Formula: for d = 1, 2, 4, .. m / 2: (a, b) -> (a + b, a - b) for all pairs of elements d apart whose index has no bit d in a.
 * Cost:    log2(m) additions an element. Stages inside a register take a shuffle and a product with +-1 in addition.
 * Order:   a stage's pairs are independent.
 */

/* The stage d inside a register. */
#define SWAPPED(l) (l) ^ d
#define SIDE(l) (l) & d ? -1.0f : 1.0f
FGD_INLINE VEC FN(cross)(VEC v, const int d)
{
    const INTS swapped = EACH(SWAPPED);
    const VEC side = EACH(SIDE);
    return FN(exact_madd)(v, side, __builtin_shuffle(v, swapped));
}
#undef SWAPPED
#undef SIDE

/* The stage d between registers. */
FGD_INLINE void FN(stage)(VEC *v, const int d)
{
#pragma GCC unroll 16
    for (int i = 0; i < FAN; i++)
        if (!(i & d)) {
            VEC a = v[i], b = v[i | d];
            v[i] = a + b;
            v[i | d] = a - b;
        }
}

FGD_INLINE void FN(stages)(VEC *v)
{
    FN(stage)(v, 1);
    FN(stage)(v, 2);
    FN(stage)(v, 4);
#if FAN == 16
    FN(stage)(v, 8);
#endif
}

/* All stages of TILE consecutive elements. */
FGD_INLINE void FN(tile_stages)(VEC *v)
{
#pragma GCC unroll 16
    for (int i = 0; i < FAN; i++) {
        v[i] = FN(cross)(FN(cross)(v[i], 1), 2);
#if WIDTH >= 8
        v[i] = FN(cross)(v[i], 4);
#endif
#if WIDTH >= 16
        v[i] = FN(cross)(v[i], 8);
#endif
    }
    FN(stages)(v);
}

/* The stages that are left after those of tiles, on m >= TILE elements. */
FGD_INLINE void FN(far_stages)(float *y, const int64_t m)
{
    int64_t d = FN(TILE);
    for (; d * FAN <= m; d *= FAN)
        for (int64_t base = 0; base < m; base += d * FAN)
            for (int64_t i = base; i < base + d; i += WIDTH) {
                VEC v[FAN];
#pragma GCC unroll 16
                for (int k = 0; k < FAN; k++)
                    memcpy(&v[k], y + i + k * d, sizeof *v);
                FN(stages)(v);
#pragma GCC unroll 16
                for (int k = 0; k < FAN; k++)
                    memcpy(y + i + k * d, &v[k], sizeof *v);
            }
    for (; d < m; d *= 2)
        for (int64_t base = 0; base < m; base += 2 * d)
            for (int64_t i = base; i < base + d; i += WIDTH) {
                VEC a, b;
                memcpy(&a, y + i, sizeof a);
                memcpy(&b, y + i + d, sizeof b);
                VEC sum = a + b, difference = a - b;
                memcpy(y + i, &sum, sizeof sum);
                memcpy(y + i + d, &difference, sizeof difference);
            }
}

/* ---- signs and codes */

/* The words of rademacher(seed, step) for the 4096 elements of block j. */
FGD_INLINE void FN(signs)(const FN(fgd_philox) *random, int64_t j, uint32_t *words)
{
    for (int k = 0; k < FGD_DRIVE / 128; k += FGD_WIDE) {
        FGD_WORDS even, odd;
        FN(fgd_philox_blocks)(random, (uint64_t)(j * (FGD_DRIVE / 128) + k), &even, &odd);
        for (int i = 0; i < 2 * FGD_WIDE; i++) {
            words[4 * k + 2 * i] = even[i];
            words[4 * k + 2 * i + 1] = odd[i];
        }
    }
}

/* Runs of bits, run k holding bit k of the codes of a block of `size`: where they are, or a copy of those below 32 bits. */
typedef struct {
    uint8_t *run[4];
    uint32_t word[4];
} FN(runs);

FGD_INLINE void FN(open_runs)(FN(runs) *runs, uint8_t *codes, int64_t size, int bits)
{
    for (int k = 0; k < bits; k++)
        runs->run[k] = size >= 32 ? codes + k * (size / 8) : (uint8_t *)&runs->word[k];
}

FGD_INLINE void FN(read_short_runs)(FN(runs) *runs, const uint8_t *codes, int64_t size, int bits)
{
    uint64_t all = 0;
    memcpy(&all, codes, (size_t)(size * bits + 7) / 8);
    for (int k = 0; k < bits; k++)
        runs->word[k] = (uint32_t)(all >> (k * size)) & (((uint32_t)1 << size) - 1);
}

FGD_INLINE void FN(write_short_runs)(const FN(runs) *runs, uint8_t *codes, int64_t size, int bits)
{
    uint64_t all = 0;
    for (int k = 0; k < bits; k++)
        all |= (uint64_t)runs->word[k] << (k * size);
    memcpy(codes, &all, (size_t)(size * bits + 7) / 8);
}

FGD_INLINE uint32_t FN(word_at)(const uint8_t *run, int64_t i)
{
    uint32_t word;
    memcpy(&word, run + i / 8, sizeof word);
    return word;
}

/* ---- sums in FGD_LANES lanes of doubles, those of a bucket */

typedef struct {
    HALF half[2 * FN(PARTS)];
} FN(lanes);

/* Lane l adds lane l + 16, then l + 8, 4, 2, 1. */
static double FN(fold)(const FN(lanes) *sums)
{
    double lane[FGD_LANES];
    memcpy(lane, sums, sizeof lane);
    for (int step = FGD_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] += lane[l + step];
    return lane[0];
}

/* The largest bits of |p_i|, and the sum of squares; `size` a multiple of 32. */
FGD_INLINE uint32_t FN(measure)(const float *p, int64_t size, const int squares, double *sum)
{
    FN(lanes) lanes;
    memset(&lanes, 0, sizeof lanes);
    uint32_t most = 0, bits[FGD_LANES] = {0};
    for (int64_t i = 0; i < size; i += FGD_LANES) {
        for (int l = 0; l < FGD_LANES; l++) {
            uint32_t b;
            memcpy(&b, p + i + l, sizeof b);
            b &= 0x7fffffffu;
            bits[l] = b > bits[l] ? b : bits[l];
        }
#pragma GCC unroll 8
        for (int h = 0; squares && h < FN(PARTS); h++) {
            VEC v;
            memcpy(&v, p + i + h * WIDTH, sizeof v);
            lanes.half[2 * h] = FN(exact_madd_d)(LOW(v), LOW(v), lanes.half[2 * h]);
            lanes.half[2 * h + 1] = FN(exact_madd_d)(HIGH(v), HIGH(v), lanes.half[2 * h + 1]);
        }
    }
    for (int l = 0; l < FGD_LANES; l++)
        most = bits[l] > most ? bits[l] : most;
    *sum = FN(fold)(&lanes);
    return most;
}

/* Formula: code of y = 2^(bits - 1) where y < 0, plus how many thresholds |y| reaches; returns the sum of fl(|y| |Q|).
 * Cost:    reads y, writes `bits` bits an element. bits - 1 comparisons, each with the threshold that halves what is left.
 * Order:   a bucket's lanes.
 */
FGD_INLINE double FN(quantise)(const float *y, int64_t size, const int bits, const float *levels, float sigma,
                               uint8_t *const *run)
{
    const int half = 1 << (bits - 1);
    float threshold[32];
    for (int k = 0; k < 32; k++)
        threshold[k] = k < half - 1 ? sigma * ((levels[k] + levels[k + 1]) * 0x1p-11f) : 0.0f;
    FN(lanes) sum;
    memset(&sum, 0, sizeof sum);
    for (int64_t i = 0; i < size; i += FGD_LANES) {
        uint32_t word[4] = {0};
#pragma GCC unroll 8
        for (int h = 0; h < FN(PARTS); h++) {
            VEC v;
            memcpy(&v, y + i + h * WIDTH, sizeof v);
            word[bits - 1] |= BITS(IS_NEGATIVE(v)) << (h * WIDTH);
            VEC magnitude = (VEC)((INTS)v & INT32_MAX);
            INTS index = {0};
#pragma GCC unroll 3
            for (int k = bits - 2; k >= 0; k--) {
                VEC t = k == bits - 2 ? (VEC){0} + threshold[(1 << k) - 1] : LOOK_UP(threshold + (1 << k) - 1, index);
                FLAGS reached = IS_AT_LEAST(magnitude, t);
                word[k] |= BITS(reached) << (h * WIDTH);
                index = FN(set)(index, reached, 1 << k);
            }
            if (bits > 1)
                magnitude *= LOOK_UP(levels, index);
            sum.half[2 * h] += LOW(magnitude);
            sum.half[2 * h + 1] += HIGH(magnitude);
        }
        for (int k = 0; k < bits; k++)
            memcpy(run[k] + i / 8, &word[k], sizeof *word);
    }
    return FN(fold)(&sum);
}

/* The sum of Q Q over codes of `size`, an integer. Q Q as a polynomial in the code's bits: a coefficient for each set of them,
 * times how many codes have all of it. */
FGD_INLINE double FN(square)(uint8_t *const *run, int64_t size, const int bits, const float *levels)
{
    const int sets = 1 << (bits - 1);
    int64_t coefficient[8], square = 0, count[8] = {size};
    for (int64_t i = 0; i < size; i += 64) {
        uint64_t all[8] = {~(uint64_t)0}, word = 0;
#pragma GCC unroll 3
        for (int k = 0; k < bits - 1; k++) {
            memcpy(&word, run[k] + i / 8, size < 64 ? 4 : 8); /* a run below 32 bits lies in a word of 32 */
#pragma GCC unroll 4
            for (int set = 0; set < 1 << k; set++) {
                all[set | 1 << k] = all[set] & word;
                count[set | 1 << k] += __builtin_popcountll(all[set | 1 << k]);
            }
        }
    }
    for (int set = 0; set < sets; set++)
        coefficient[set] = (int64_t)levels[set] * (int64_t)levels[set];
    for (int k = 1; k < sets; k *= 2)
        for (int set = 0; set < sets; set++)
            coefficient[set] -= set & k ? coefficient[set ^ k] : 0;
    for (int set = 0; set < sets; set++)
        square += coefficient[set] * count[set];
    return (double)square;
}

/* Formula: c_i = the sign of i times fl(w_i scale), at most the largest float; w the transform of the codes' Q, an integer.
 * Cost:    reads `bits` bits, writes c (in the cache); the transform.
 * Order:   none matters, all sums are exact.
 * Writes TILE elements where `size` is less.
 */
FGD_INLINE void FN(values)(uint8_t *const *run, int64_t size, const int bits, const float *levels, const uint32_t *signs,
                           float scale, float *c)
{
    for (int64_t i = 0; i < FGD_MAX(size, FN(TILE)); i += FN(TILE)) {
        VEC v[FAN];
#pragma GCC unroll 16
        for (int h = 0; h < FAN; h++) {
            int64_t at = i + h * WIDTH, word = at / 32 * 32, shift = at % 32;
            if (at >= size) { /* a block that is less than a tile */
                v[h] = (VEC){0};
                continue;
            }
            INTS index = {0};
            for (int k = 0; k < bits - 1; k++)
                index = FN(set)(index, FN(flags)(FN(word_at)(run[k], word) >> shift), 1 << k);
            VEC q = bits == 1 ? (VEC){0} + levels[0] : LOOK_UP(levels, index);
            v[h] = FN(turn)(q, FN(word_at)(run[bits - 1], word) >> shift);
            for (int l = 0; size < at + WIDTH && l < WIDTH; l++)
                v[h][l] = at + l < size ? v[h][l] : 0.0f;
        }
        FN(tile_stages)(v);
        memcpy(c + i, v, sizeof v);
    }
    if (size > FN(TILE))
        FN(far_stages)(c, size);
    for (int64_t i = 0; i < FGD_MAX(size, 32); i += 32)
#pragma GCC unroll 8
        for (int h = 0; h < FN(PARTS); h++) {
            VEC w;
            memcpy(&w, c + i + h * WIDTH, sizeof w);
            w = FN(turn)(w * scale, signs[i / 32] >> (h * WIDTH));
            memcpy(c + i + h * WIDTH, &w, sizeof w);
        }
    if (scale > 0x1p103f) /* w is below 2^24 */
        for (int64_t i = 0; i < size; i++)
            c[i] = c[i] > 0x1.fffffep127f ? 0x1.fffffep127f : c[i] < -0x1.fffffep127f ? -0x1.fffffep127f : c[i];
}

static void FN(values_of)(uint8_t *codes, int64_t size, int bits, const uint32_t *signs, float scale, float *c)
{
    if (scale == 0.0f) {
        memset(c, 0, (size_t)size * sizeof *c);
        return;
    }
    FN(runs) runs = {0};
    FN(open_runs)(&runs, codes, size, bits);
    if (size < 32)
        FN(read_short_runs)(&runs, codes, size, bits);
    const float *levels = fgd_drive_levels[bits];
    if (bits == 1)
        FN(values)(runs.run, size, 1, levels, signs, scale, c);
    else if (bits == 2)
        FN(values)(runs.run, size, 2, levels, signs, scale, c);
    else if (bits == 3)
        FN(values)(runs.run, size, 3, levels, signs, scale, c);
    else
        FN(values)(runs.run, size, 4, levels, signs, scale, c);
}

/* ---- one block
 *
 * Formula: y = H (signs x 2^-E), its codes, and the scale that makes scale H Q nearest to x, or unbiased.
 * Cost:    reads x and the memory once, writes the memory and `bits` bits an element: one transform, two with a memory.
 * Order:   docs/wire.md.
 */
FGD_INLINE float FN(encode_block)(const float *p, int64_t size, const int bits, int unbiased, const uint32_t *signs,
                                  uint8_t *codes, float *y)
{
    double norm;
    int64_t room = FGD_MAX(size, FN(TILE)), whole = FGD_MAX(size, 32);
    uint32_t most = bits > 1 || unbiased ? FN(measure)(p, whole, 1, &norm) : FN(measure)(p, whole, 0, &norm);
    int exponent = FGD_MIN(FGD_MAX((int)(most >> 23), 1), 253) - 127;
    float shrink = (float)fgd_power(-exponent);
    double scale = 0.0;
    if (most) {
        for (int64_t i = 0; i < room; i += FN(TILE)) {
            VEC v[FAN];
#pragma GCC unroll 16
            for (int h = 0; h < FAN; h++) {
                int64_t at = i + h * WIDTH;
                memcpy(&v[h], p + at, sizeof *v);
                v[h] = FN(turn)(v[h] * shrink, signs[at / 32] >> (at % 32));
            }
            FN(tile_stages)(v);
            memcpy(y + i, v, sizeof v);
        }
        if (size > FN(TILE))
            FN(far_stages)(y, size);
        if (size < 32)
            memset(y + size, 0, (size_t)(32 - size) * sizeof *y);
        norm = norm * fgd_power(-2 * exponent);
        FN(runs) runs = {0};
        FN(open_runs)(&runs, codes, size, bits);
        const float *levels = fgd_drive_levels[bits];
        double along = FN(quantise)(y, whole, bits, levels, (float)__builtin_sqrt(norm), runs.run);
        scale = unbiased ? norm / along : along / ((double)size * FN(square)(runs.run, size, bits, levels));
        scale *= fgd_power(exponent);
        if (size < 32)
            FN(write_short_runs)(&runs, codes, size, bits);
        scale = scale < 0x1.fffffep127 ? scale : 0x1.fffffep127;
    }
    if ((float)scale == 0.0f)
        memset(codes, 0, (size_t)(size * bits + 7) / 8);
    return (float)scale;
}

static float FN(encode_block_of)(const float *p, int64_t size, int bits, int unbiased, const uint32_t *signs, uint8_t *codes,
                                 float *y)
{
    return bits == 1   ? FN(encode_block)(p, size, 1, unbiased, signs, codes, y)
           : bits == 2 ? FN(encode_block)(p, size, 2, unbiased, signs, codes, y)
           : bits == 3 ? FN(encode_block)(p, size, 3, unbiased, signs, codes, y)
                       : FN(encode_block)(p, size, 4, unbiased, signs, codes, y);
}

/* Blocks first .. last - 1. */
FGD_NOINLINE void FN(drive_encode)(const fgd_drive_input *in, uint64_t seed, uint32_t step, int64_t first, int64_t last,
                                   uint8_t *scales, uint8_t *codes)
{
    float buffer[FGD_DRIVE] __attribute__((aligned(64))), y[FGD_DRIVE] __attribute__((aligned(64)));
    uint32_t signs[FGD_DRIVE / 32] __attribute__((aligned(64)));
    FN(fgd_philox) random;
    FN(fgd_philox_start)(&random, seed, step, FGD_STREAM_SIGNS);
    for (int64_t j = first; j < last; j++) {
        int64_t lo = j * FGD_DRIVE, count = FGD_MIN(FGD_DRIVE, in->x.n - lo), size = fgd_drive_size(count);
        uint8_t *block = codes + j * (FGD_DRIVE / 8 * in->bits);
        const float *p = buffer;
        FN(signs)(&random, j, signs);
        if (in->mode == FGD_PLAIN && in->x.dtype == FGD_F32 && count == FGD_DRIVE)
            p = (const float *)in->x.data + lo;
        else
            FN(begin_block)(&in->x, in->memory, in->mode, lo, count, buffer);
        if (count < FGD_DRIVE)
            memset(buffer + count, 0, (size_t)(FGD_DRIVE - count) * sizeof *buffer);
        float scale = FN(encode_block_of)(p, size, in->bits, in->unbiased, signs, block, y);
        memcpy(scales + 4 * j, &scale, sizeof scale);
        if (in->mode != FGD_PLAIN) {
            FN(values_of)(block, size, in->bits, signs, scale, y);
            FN(end_block)(in->memory, in->mode, lo, count, p, y);
        }
    }
}

/* ---- decoding: out_i = c_i, or out_i + fl(factor c_i) with `add`. Reads the codes, writes out (and reads it). */
FGD_NOINLINE void FN(drive_decode)(int bits, uint64_t seed, uint32_t step, int64_t lo, int64_t hi, const uint8_t *scales,
                                   const uint8_t *codes, float factor, int add, float *out)
{
    float c[FGD_DRIVE] __attribute__((aligned(64)));
    uint32_t signs[FGD_DRIVE / 32] __attribute__((aligned(64)));
    FN(fgd_philox) random;
    FN(fgd_philox_start)(&random, seed, step, FGD_STREAM_SIGNS);
    for (; lo < hi; lo += FGD_DRIVE) {
        int64_t j = lo / FGD_DRIVE, count = FGD_MIN(FGD_DRIVE, hi - lo);
        float scale;
        memcpy(&scale, scales + 4 * j, sizeof scale);
        FN(signs)(&random, j, signs);
        FN(values_of)((uint8_t *)codes + j * (FGD_DRIVE / 8 * bits), fgd_drive_size(count), bits, signs, scale, c);
        if (add)
            for (int64_t i = 0; i < count; i++)
                out[lo + i] = out[lo + i] + factor * c[i];
        else
            memcpy(out + lo, c, (size_t)count * sizeof *c);
    }
}

#undef VEC
#undef INTS
#undef HALF
#undef WIDTH
#undef FAN
#undef EACH
#undef FLAGS
#undef IS_NEGATIVE
#undef IS_AT_LEAST
#undef BITS
#undef LOW
#undef HIGH
#undef LOOK_UP
#undef ONE_BIT
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
