/* Sign and OneBit, their decoding, and the majority vote, for one instruction set (isa.h). docs/wire.md fixes every bit.
 */
#include "rows.h"
#include "compress.h"

/* ---- vectors as wide as the machine's registers */

#if FGD_LEVEL == 2
#define VEC v16f
#define WIDTH 16
#define MASK v16i
#define HALF v8d /* as many doubles as half a VEC holds floats */
#define NEGATIVE(v) (uint32_t) _mm512_cmp_ps_mask((__m512)(v), _mm512_setzero_ps(), _CMP_LT_OQ)
#define LOW(v) (v8d) _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)(v)))
#define HIGH(v) (v8d) _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)(v), 1))
#define PICK(bits, yes, no) (v16f) _mm512_mask_blend_ps((__mmask16)(bits), (__m512)(no), (__m512)(yes))
#elif FGD_LEVEL == 1
#define VEC v8f
#define WIDTH 8
#define MASK v8si
#define HALF v4d
#define NEGATIVE(v) (uint32_t) _mm256_movemask_ps(_mm256_cmp_ps((__m256)(v), _mm256_setzero_ps(), _CMP_LT_OQ))
#define LOW(v) (v4d) _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)(v)))
#define HIGH(v) (v4d) _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)(v), 1))
#define PICK(bits, yes, no) FN(pick)(bits, yes, no)
#else
#define VEC v4f
#define WIDTH 4
#define MASK v4si
#define HALF v2d
#define NEGATIVE(v) FN(negative)(v)
#define LOW(v) (v2d){(v)[0], (v)[1]}
#define HIGH(v) (v2d){(v)[2], (v)[3]}
#define PICK(bits, yes, no) FN(pick)(bits, yes, no)

FGD_INLINE uint32_t FN(negative)(v4f v)
{
    v4si below = v < 0.0f;
    return (below[0] & 1) | (below[1] & 2) | (below[2] & 4) | (below[3] & 8);
}
#endif

#if FGD_LEVEL == 1
FGD_INLINE v8f FN(pick)(uint32_t bits, v8f yes, v8f no)
{
    v8si lane = {1, 2, 4, 8, 16, 32, 64, 128}, mask = (((v8si){0} + (int32_t)bits) & lane) != 0;
    return (v8f)(((v8si)yes & mask) | ((v8si)no & ~mask));
}
#elif FGD_LEVEL == 0
FGD_INLINE v4f FN(pick)(uint32_t bits, v4f yes, v4f no)
{
    v4si lane = {1, 2, 4, 8}, mask = (((v4si){0} + (int32_t)bits) & lane) != 0;
    return (v4f)(((v4si)yes & mask) | ((v4si)no & ~mask));
}
#endif

#define ABSOLUTE(v) (VEC)((MASK)(v) & 0x7fffffff)

enum { FN(PARTS) = FGD_LANES / WIDTH };

/* ---- sums in FGD_LANES lanes of doubles */

/* Lane l adds lane l + 16, then l + 8, 4, 2, 1. */
static double FN(fold)(const HALF *sums)
{
    double lane[FGD_LANES];
    memcpy(lane, sums, sizeof lane);
    for (int step = FGD_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] += lane[l + step];
    return lane[0];
}

/* ---- one chunk of at most FGD_BLOCK elements
 *
 * Formula: p from x and the memory (compress.h); bit i = p_i < 0; the sum of |p_i|, with `sides` one for each side, and how many
 *          are below. In FEEDBACK the memory holds the last p, not what was left of it: that is subtracted here,
 *          m - (m < 0 ? lower : upper), so that one pass over x and memory does both steps.
 * Cost:    reads x and the memory, writes the memory and one bit an element.
 * Order:   the chunk's lanes as docs/wire.md has them.
 */
FGD_INLINE uint32_t FN(group)(const float *x, float *memory, fgd_mode mode, VEC up, VEC low, HALF *lower_sum, HALF *upper_sum,
                              const int sides)
{
    uint32_t word = 0;
#pragma GCC unroll 8
    for (int h = 0; h < FN(PARTS); h++) {
        VEC p, was;
        memcpy(&p, x + h * WIDTH, sizeof p);
        if (mode != FGD_PLAIN)
            memcpy(&was, memory + h * WIDTH, sizeof was);
        if (mode == FGD_FEEDBACK) {
            p = (was - PICK(NEGATIVE(was), low, up)) + p;
            memcpy(memory + h * WIDTH, &p, sizeof p);
        } else if (mode == FGD_DIFFERENCE)
            p = p - was;
        uint32_t below = NEGATIVE(p);
        word |= below << (h * WIDTH);
        VEC size = ABSOLUTE(p), beneath = sides ? PICK(below, size, (VEC){0}) : size;
        lower_sum[2 * h] += LOW(beneath);
        lower_sum[2 * h + 1] += HIGH(beneath);
        if (sides) {
            size = PICK(below, (VEC){0}, size);
            upper_sum[2 * h] += LOW(size);
            upper_sum[2 * h + 1] += HIGH(size);
        }
    }
    return word;
}

FGD_INLINE void FN(chunk_signs_of)(const float *x, float *memory, fgd_mode mode, int64_t count, float upper, float lower,
                                   uint8_t *bits, fgd_sides *result, const int sides)
{
    HALF lower_sum[2 * FN(PARTS)] = {{0}}, upper_sum[2 * FN(PARTS)] = {{0}};
    int64_t negatives = 0, i = 0;
    VEC up = upper - (VEC){0}, low = lower - (VEC){0}; /* a sum would make 0 of -0 */
    for (; i + FGD_LANES <= count; i += FGD_LANES) {
        float *m = mode == FGD_PLAIN ? NULL : memory + i;
        FN(fetch)(x + i, m, mode);
        FN(fetch)(x + i + FGD_LANES / 2, m ? m + FGD_LANES / 2 : m, mode);
        uint32_t word = FN(group)(x + i, m, mode, up, low, lower_sum, upper_sum, sides);
        negatives += sides ? __builtin_popcount(word) : 0;
        memcpy(bits + i / 8, &word, sizeof word); /* little-endian, as the wire is */
    }
    if (i < count) { /* filled up so that p is 0 beyond the end */
        float g[FGD_LANES] = {0}, m[FGD_LANES];
        size_t left = (size_t)(count - i);
        for (int l = 0; l < FGD_LANES; l++)
            m[l] = mode == FGD_FEEDBACK ? upper : 0.0f;
        memcpy(g, x + i, left * sizeof *g);
        if (mode != FGD_PLAIN)
            memcpy(m, memory + i, left * sizeof *m);
        uint32_t word = FN(group)(g, m, mode, up, low, lower_sum, upper_sum, sides);
        word &= ((uint32_t)1 << left) - 1;
        negatives += sides ? __builtin_popcount(word) : 0;
        memcpy(bits + i / 8, &word, (left + 7) / 8);
        if (mode == FGD_FEEDBACK)
            memcpy(memory + i, m, left * sizeof *m);
    }
    result->lower = FN(fold)(lower_sum);
    result->upper = FN(fold)(upper_sum);
    result->below = negatives;
}

static void FN(chunk_signs)(const fgd_vector *x, float *memory, fgd_mode mode, int64_t lo, int64_t count, float upper,
                            float lower, uint8_t *bits, fgd_sides *result, int sides)
{
    float block[FGD_BLOCK];
    const float *source = block;
    if (x->dtype == FGD_F32)
        source = (const float *)x->data + lo;
    else
        FN(load_block)(x, lo, count, block);
    memory = mode == FGD_PLAIN ? NULL : memory + lo;
    bits += lo / 8;
#define CALL(mode_)                                                                                     \
    (sides ? FN(chunk_signs_of)(source, memory, mode_, count, upper, lower, bits, result, 1)            \
           : FN(chunk_signs_of)(source, memory, mode_, count, upper, lower, bits, result, 0))
    if (mode == FGD_FEEDBACK)
        CALL(FGD_FEEDBACK);
    else if (mode == FGD_DIFFERENCE)
        CALL(FGD_DIFFERENCE);
    else
        CALL(FGD_PLAIN);
#undef CALL
}

/* ---- decoding: y_i = c_i, or y_i + c_i with `add`, c_i = bit i ? lower : upper; lo a multiple of 8. Reads a bit, writes y
 * (and reads it). */
static void FN(add_bits)(const uint8_t *bits, int64_t lo, int64_t hi, float upper, float lower, int add, float *out)
{
    VEC up = upper - (VEC){0}, low = lower - (VEC){0}; /* a sum would make 0 of -0 */
    int64_t i = lo;
    for (; i + 32 <= hi; i += 32) {
        uint32_t word;
        memcpy(&word, bits + i / 8, sizeof word);
#pragma GCC unroll 8
        for (int h = 0; h < FN(PARTS); h++) {
            VEC y, c = PICK(word >> (h * WIDTH), low, up);
            if (add) {
                memcpy(&y, out + i + h * WIDTH, sizeof y);
                c = y + c;
            }
            memcpy(out + i + h * WIDTH, &c, sizeof c);
        }
    }
    for (; i < hi; i++) {
        float c = bits[i / 8] >> (i % 8) & 1 ? lower : upper;
        out[i] = add ? out[i] + c : c;
    }
}

/* ---- majority vote on 64 bytes of `voters` bit strings, FGD_VOTERS at most
 *
 * Formula: bit = 1 where more than half of the bits are.
 * Cost:    reads each string once; counters are bit-sliced, plane b holding bit b of 512 of them, so a voter costs two
 * operations a
 *          plane that is in use.
 */
static void FN(vote_line)(const uint8_t *const *bits, int64_t voters, int64_t at, int64_t bytes, uint8_t *out)
{
    v8i plane[FGD_VOTER_BITS], above = {0}, equal = ~(v8i){0};
    memset(plane, 0, sizeof plane);
    int planes = 0;
    for (int64_t w = 0; w < voters; w++) {
        v8i carry = {0};
        memcpy(&carry, bits[w] + at, (size_t)bytes);
        planes += w + 1 == (int64_t)1 << planes;
        for (int b = 0; b < planes; b++) {
            v8i both = plane[b] & carry;
            plane[b] ^= carry;
            carry = both;
        }
    }
    for (int b = planes - 1; b >= 0; b--)
        if (voters / 2 >> b & 1)
            equal &= plane[b];
        else {
            above |= equal & plane[b];
            equal &= ~plane[b];
        }
    memcpy(out + at, &above, (size_t)bytes);
}

#undef VEC
#undef WIDTH
#undef MASK
#undef HALF
#undef NEGATIVE
#undef LOW
#undef HIGH
#undef PICK
#undef ABSOLUTE
