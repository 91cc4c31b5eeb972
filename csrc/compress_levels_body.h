/* The kernels of QSGD, Int8, FP8, TernGrad and Natural, for one instruction set (isa.h): codes here, decoding in
 * compress_decode_levels.h, packing in compress_pack.h. docs/wire.md fixes every bit. */
#include "rows.h"
#include "compress.h"
#include "compress_pack.h"
#include "compress_decode_levels.h"

/* ---- vectors as wide as the machine's registers, and what C has no word for */

#if FGD_LEVEL == 2
#define VEC v16f
#define INT v16i
#define WORD v16u
#define WIDTH 16
#define ROTATED(v) (v16u) _mm512_rol_epi32((__m512i)(v), 16)
#define HIGHER(a, b) (v16f) _mm512_max_ps((__m512)(a), (__m512)(b))
#define FLOOR(v) (v16f) _mm512_roundscale_ps((__m512)(v), _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
#define SIGNS(v) (uint32_t) _mm512_movepi32_mask((__m512i)(v))
#define HALF v8d /* as many doubles as half a VEC holds floats */
#define LOW(v) (v8d) _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)(v)))
#define HIGH(v) (v8d) _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)(v), 1))
#elif FGD_LEVEL == 1
#define VEC v8f
#define INT v8si
#define WORD FN(words)
#define WIDTH 8
#define ROTATED(v) (WORD) _mm256_shuffle_epi8((__m256i)(v), _mm256_set_epi64x(0x0d0c0f0e09080b0a, 0x0504070601000302, \
                                                                              0x0d0c0f0e09080b0a, 0x0504070601000302))
#define HIGHER(a, b) (v8f) _mm256_max_ps((__m256)(a), (__m256)(b))
#define FLOOR(v) (v8f) _mm256_floor_ps((__m256)(v))
#define SIGNS(v) (uint32_t) _mm256_movemask_ps((__m256)(v))
#define HALF v4d
#define LOW(v) (v4d) _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)(v)))
#define HIGH(v) (v4d) _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)(v), 1))
#else
#define VEC v4f
#define INT v4si
#define WORD FN(words)
#define WIDTH 4
#define ROTATED(v) ((v) << 16 | (v) >> 16)
#define FLOOR(v) FN(floor)(v)
#define HALF v2d
#define LOW(v) (v2d){(v)[0], (v)[1]}
#define HIGH(v) (v2d){(v)[2], (v)[3]}
#if FGD_X86_CLONES
#define HIGHER(a, b) (v4f) _mm_max_ps((__m128)(a), (__m128)(b))
#define SIGNS(v) (uint32_t) _mm_movemask_ps((__m128)(v))
#else
#define HIGHER(a, b) FN(higher)(a, b)
#define SIGNS(v) FN(signs)(v)

FGD_INLINE v4f FN(higher)(v4f a, v4f b)
{
    v4si more = a > b;
    return (v4f)(((v4si)a & more) | ((v4si)b & ~more));
}

FGD_INLINE uint32_t FN(signs)(v4f v)
{
    v4si bits = (v4si)v < 0;
    return (bits[0] & 1) | (bits[1] & 2) | (bits[2] & 4) | (bits[3] & 8);
}
#endif

/* Of numbers that an int holds: the whole part, one less where that is too much. */
FGD_INLINE v4f FN(floor)(v4f v)
{
    v4f whole = __builtin_convertvector(__builtin_convertvector(v, v4si), v4f);
    return whole - (v4f)((v4si)(whole > v) & (v4si)(v4f){1.0f, 1.0f, 1.0f, 1.0f});
}
#endif
#if FGD_LEVEL < 2
typedef uint32_t WORD __attribute__((vector_size(4 * WIDTH)));
#endif

enum { FN(PARTS) = FGD_UNIT / WIDTH };

/* The low bytes of FGD_UNIT numbers. */
FGD_INLINE void FN(narrow)(const INT *v, uint8_t *out)
{
#if FGD_LEVEL == 2
    for (int k = 0; k < 2; k++)
        _mm_storeu_si128((__m128i *)out + k, _mm512_cvtepi32_epi8((__m512i)v[k]));
#elif FGD_LEVEL == 1
    __m256i byte = _mm256_set1_epi32(255);
    __m256i low = _mm256_packs_epi32((__m256i)v[0] & byte, (__m256i)v[1] & byte);
    __m256i high = _mm256_packs_epi32((__m256i)v[2] & byte, (__m256i)v[3] & byte);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packing works on each half for itself */
    _mm256_storeu_si256((__m256i *)out, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
#elif FGD_X86_CLONES
    __m128i byte = _mm_set1_epi32(255);
    for (int k = 0; k < 2; k++) {
        __m128i low = _mm_packs_epi32((__m128i)v[4 * k] & byte, (__m128i)v[4 * k + 1] & byte);
        __m128i high = _mm_packs_epi32((__m128i)v[4 * k + 2] & byte, (__m128i)v[4 * k + 3] & byte);
        _mm_storeu_si128((__m128i *)out + k, _mm_packus_epi16(low, high));
    }
#else
    for (int i = 0; i < FGD_UNIT; i++)
        out[i] = (uint8_t)v[i / WIDTH][i % WIDTH];
#endif
}

/* ---- one vector of codes */

/* fgd_hash32 of WIDTH consecutive indices. */
FGD_INLINE WORD FN(hash)(uint32_t first, fgd_hash_key key)
{
    WORD lane;
    for (int l = 0; l < WIDTH; l++)
        lane[l] = (uint32_t)l;
    WORD x = (lane + first) ^ key.outer;
    x = (x ^ (x >> 16)) * 0x7FEB352Du ^ key.inner;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* (word >> 8) * 2^-24 < fraction, as a mask. */
FGD_INLINE INT FN(drawn)(WORD word, VEC fraction)
{
    return __builtin_convertvector((INT)(word >> 8), VEC) * 0x1p-24f < fraction;
}

/* The code of r in a format with so many fraction bits and that least exponent, in the low byte, and its value. In `shifted` the unit
 * of r's place in the format is the last bit, so the addition rounds and leaves in its low bits how many units there are:
 * 2^fraction at least for normal numbers, which counts as one more exponent, less for subnormal ones. What it rounds up to the
 * next power of two has the next code anyway. */
FGD_INLINE INT FN(minifloat)(VEC r, const int fraction, const int least, VEC *value)
{
    INT zero = {0}, sign = (INT)r & INT32_MIN, size = (INT)r & INT32_MAX;
    INT exponent = (INT)HIGHER((VEC)(size & 0x7f800000), (VEC)(zero + ((127 + least) << 23)));
    VEC shift = (VEC)(exponent + ((23 - fraction) << 23)), shifted = (VEC)size + shift;
    INT code = ((exponent - ((127 + least) << 23)) >> (23 - fraction)) + ((INT)shifted - (INT)shift);
    *value = (VEC)((INT)(shifted - shift) | sign);
    return code | (INT)((WORD)sign >> 24);
}

/* What the coding of a bucket needs. */
typedef struct {
    fgd_ruler ruler;
    fgd_hash_key key;
    int64_t segment; /* which the key is of */
    float shift; /* 1.5 * 2^23, and what a code adds to its number: a sum's low bits are the code */
    const char *next_x, *next_memory; /* what is fetched for the block after this one */
    int64_t item;
} FN(coder);

/* Codes of WIDTH coordinates p, in the low bytes; *c is what they decode to. */
FGD_INLINE INT FN(code)(const int kind, const FN(coder) *how, VEC p, WORD word, VEC *c)
{
    VEC zero = {0}, r = p * how->ruler.inverse, value;
    INT one = (INT)(zero + 1.0f), code;
    if (kind == FGD_NEAREST) {
        VEC shifted = r + how->shift; /* rounds to integers */
        value = shifted - how->shift;
        code = (INT)shifted;
    } else if (kind == FGD_STOCHASTIC) {
        VEC below = FLOOR(r);
        value = below + (VEC)(FN(drawn)(word, r - below) & one); /* + 0 makes a zero positive */
        code = (INT)(value + how->shift);
    } else if (kind == FGD_TERNARY) {
        INT taken = FN(drawn)(word, (VEC)((INT)r & INT32_MAX)), negative = p < zero;
        value = (VEC)(taken & (one | (negative & INT32_MIN)));
        code = taken & (1 - negative);
    } else
        code = kind == FGD_E4M3 ? FN(minifloat)(r, 3, -6, &value) : FN(minifloat)(r, 2, -14, &value);
    *c = value * how->ruler.step;
    return code;
}

/* Natural compression: the exponents of what WIDTH coordinates are rounded to. */
FGD_INLINE INT FN(power)(VEC p, WORD word, VEC *c)
{
    INT bits = (INT)p, exponent = (bits >> 23 & 255) - ((bits & 0x7fffff) > (INT)(word >> 9));
    exponent += exponent > 254;
    *c = (VEC)(exponent << 23 | (bits & INT32_MIN & (exponent != 0)));
    return exponent;
}

/* ---- FGD_UNIT coordinates: codes, signs (Natural) and the memory. `first` is the first of the indices hashed: 16 words serve the 16
 * coordinates, and rotated by 16 bits the 16 after them. */
FGD_INLINE uint32_t FN(unit)(const int kind, const FN(coder) *how, fgd_mode mode, const float *p, uint32_t first, float *memory,
                             uint8_t *out)
{
    INT code[FN(PARTS)];
    WORD word[FN(PARTS)] = {{0}};
    uint32_t signs = 0;
    if (kind != FGD_NEAREST && kind != FGD_E4M3 && kind != FGD_E5M2)
#pragma GCC unroll 4
        for (int k = 0; k < FN(PARTS) / 2; k++) {
            word[k] = FN(hash)(first + (uint32_t)(k * WIDTH), how->key);
            word[k + FN(PARTS) / 2] = ROTATED(word[k]);
        }
#pragma GCC unroll 8
    for (int k = 0; k < FN(PARTS); k++) {
        VEC from, c, m;
        memcpy(&from, p + k * WIDTH, sizeof from);
        if (kind == FGD_NATURAL) {
            code[k] = FN(power)(from, word[k], &c);
            signs |= SIGNS(c) << (k * WIDTH);
        } else
            code[k] = FN(code)(kind, how, from, word[k], &c);
        if (mode == FGD_FEEDBACK)
            m = from - c;
        else if (mode == FGD_DIFFERENCE) {
            memcpy(&m, memory + k * WIDTH, sizeof m);
            m = m + c;
        }
        if (mode != FGD_PLAIN)
            memcpy(memory + k * WIDTH, &m, sizeof m);
    }
    FN(narrow)(code, out);
    return signs;
}

/* `count` coordinates from p[skew] on, skew < FGD_UNIT; p is readable in whole units. `memory` and `out` are those of p[skew]; `memory`
 * is not used in PLAIN, `signs` by Natural alone, whose skew is 0. */
FGD_INLINE void FN(units)(const int kind, const FN(coder) *how, const fgd_mode mode, const float *p, uint32_t first, int64_t skew,
                          int64_t count, float *memory, uint8_t *out, uint8_t *signs)
{
    const FN(coder) own = *how; /* in registers: as far as C knows, `out` may overwrite *how */
    how = &own;
    for (int64_t u = 0; u < skew + count; u += FGD_UNIT) {
        uint32_t hashed = first + (uint32_t)(u / 2), word;
        __builtin_prefetch(own.next_x + u * own.item);
        __builtin_prefetch(own.next_x + (u + FGD_UNIT / 2) * own.item);
        if (mode != FGD_PLAIN) {
            __builtin_prefetch(own.next_memory + u * 4);
            __builtin_prefetch(own.next_memory + (u + FGD_UNIT / 2) * 4);
        }
        if (u >= skew && u + FGD_UNIT <= skew + count) {
            word = FN(unit)(kind, how, mode, p + u, hashed, mode ? memory + (u - skew) : NULL, out + (u - skew));
            if (kind == FGD_NATURAL)
                memcpy(signs + u / 8, &word, sizeof word);
            continue;
        }
        float part[FGD_UNIT] = {0};
        uint8_t codes[FGD_UNIT];
        int64_t from = FGD_MAX(skew - u, 0), at = u + from - skew;
        size_t left = (size_t)(FGD_MIN(FGD_UNIT, skew + count - u) - from);
        if (mode != FGD_PLAIN)
            memcpy(part + from, memory + at, left * sizeof *part);
        word = FN(unit)(kind, how, mode, p + u, hashed, part, codes);
        if (mode != FGD_PLAIN)
            memcpy(memory + at, part + from, left * sizeof *part);
        memcpy(out + at, codes + from, left);
        word &= ((uint32_t)1 << left) - 1;
        if (kind == FGD_NATURAL)
            memcpy(signs + u / 8, &word, (left + 7) / 8);
    }
}

#define CASES(kind) /* one loop for each codec and mode */                                                                       \
    FGD_NOINLINE void FN(units_##kind)(const FN(coder) *how, fgd_mode mode, const float *p, uint32_t first, int64_t skew,        \
                                       int64_t count, float *memory, uint8_t *out, uint8_t *signs)                               \
    {                                                                                                                            \
        if (mode == FGD_FEEDBACK)                                                                                                \
            FN(units)(kind, how, FGD_FEEDBACK, p, first, skew, count, memory, out, signs);                                       \
        else if (mode == FGD_DIFFERENCE)                                                                                         \
            FN(units)(kind, how, FGD_DIFFERENCE, p, first, skew, count, memory, out, signs);                                     \
        else                                                                                                                     \
            FN(units)(kind, how, FGD_PLAIN, p, first, skew, count, memory, out, signs);                                          \
    }
CASES(FGD_NEAREST)
CASES(FGD_STOCHASTIC)
CASES(FGD_E4M3)
CASES(FGD_E5M2)
CASES(FGD_TERNARY)
CASES(FGD_NATURAL)
#undef CASES

/* ---- buckets */

enum { FN(ROOM) = FGD_BLOCK + 2 * FGD_UNIT }; /* a block, what precedes it in its first unit, and what follows in its last */

/* p for a block, and zeros up to a whole unit. */
FGD_NOINLINE void FN(make)(const fgd_vector *x, const float *memory, fgd_mode mode, int64_t lo, int64_t count, float *p)
{
    FN(begin_block)(x, memory, mode, lo, count, p);
    memset(p + count, 0, FGD_UNIT * sizeof *p);
}

/* The larger of `top` and the bits of the magnitudes: as integers they are in the same order. */
FGD_NOINLINE uint32_t FN(largest)(const float *p, int64_t count, uint32_t top)
{
    int32_t most = (int32_t)top;
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, p + i, sizeof bits);
        bits &= INT32_MAX;
        most = FGD_MAX(most, bits);
    }
    return (uint32_t)most;
}

static uint32_t FN(largest_of)(const fgd_vector *x, const float *memory, fgd_mode mode, int64_t lo, int64_t hi, uint32_t top)
{
    float p[FGD_BLOCK + FGD_UNIT];
    for (int64_t at = lo; at < hi; at += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, hi - at);
        FN(make)(x, memory, mode, at, count, p);
        top = FN(largest)(p, count, top);
    }
    return top;
}

typedef struct {
    HALF half[2 * FN(PARTS)];
} FN(lanes);

/* Squares in the lanes of docs/wire.md. */
FGD_NOINLINE void FN(add_squares)(const float *p, int64_t count, FN(lanes) *sums)
{
    FN(lanes) own = *sums;
    for (int64_t i = 0; i < count; i += FGD_UNIT) {
        float rest[FGD_UNIT] = {0};
        const float *from = p + i;
        if (count - i < FGD_UNIT)
            from = memcpy(rest, from, (size_t)(count - i) * sizeof *rest);
#pragma GCC unroll 8
        for (int k = 0; k < FN(PARTS); k++) {
            VEC v;
            memcpy(&v, from + k * WIDTH, sizeof v);
            HALF low = LOW(v), high = HIGH(v);
            own.half[2 * k] += low * low;
            own.half[2 * k + 1] += high * high;
        }
    }
    *sums = own;
}

/* The norm: at least the largest magnitude, at most the largest float. */
static float FN(norm)(const FN(lanes) *sums, float top)
{
    double lane[FGD_LANES];
    memcpy(lane, sums, sizeof lane);
    for (int step = FGD_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] += lane[l + step];
    float norm = (float)sqrt(lane[0]);
    return FGD_MAX(FGD_MIN(norm, 0x1.fffffep127f), top);
}

/* Codes of one block, elements [at, at + count), which lie from p[at mod FGD_UNIT] on. A key serves 2^32 hashed indices, and those 2^33
 * elements. */
static void FN(encode_part)(const fgd_levels *how, FN(coder) *coder, fgd_mode mode, const float *p, int64_t at, int64_t count,
                            float *memory, uint8_t *out, uint8_t *signs)
{
    int64_t segment = (int64_t)1 << 33;
    while (count) {
        int64_t skew = at % FGD_UNIT, part = FGD_MIN(count, segment - at % segment);
        uint32_t first = (uint32_t)((at - skew) / 2);
        if (coder->segment != at / segment) {
            coder->segment = at / segment;
            coder->key = fgd_hash_start(how->seed, how->step, (uint32_t)coder->segment);
        }
#define CALL(kind) FN(units_##kind)(coder, mode, p, first, skew, part, memory, out, signs)
        if (how->kind == FGD_NEAREST)
            CALL(FGD_NEAREST);
        else if (how->kind == FGD_STOCHASTIC)
            CALL(FGD_STOCHASTIC);
        else if (how->kind == FGD_E4M3)
            CALL(FGD_E4M3);
        else if (how->kind == FGD_E5M2)
            CALL(FGD_E5M2);
        else if (how->kind == FGD_TERNARY)
            CALL(FGD_TERNARY);
        else
            CALL(FGD_NATURAL);
#undef CALL
        p += skew + part;
        at += part;
        out += part;
        count -= part;
        if (mode != FGD_PLAIN)
            memory += part;
        if (how->kind == FGD_NATURAL)
            signs += part / 8;
    }
}

/* The same for any ruler: where `before` is not 1, which is as good as never, from scaled coordinates, the memory afterwards. */
static void FN(encode_block)(const fgd_levels *how, FN(coder) *coder, fgd_mode mode, const float *p, int64_t at, int64_t count,
                             float *memory, uint8_t *out, uint8_t *signs)
{
    if (coder->ruler.before == 1.0f) {
        FN(encode_part)(how, coder, mode, p, at, count, memory, out, signs);
        return;
    }
    float other[FN(ROOM)];
    int kind = how->kind == FGD_STOCHASTIC && !how->offset ? FGD_NEAREST : how->kind; /* Int8 decodes without knowing how it rounded */
    int64_t skew = at % FGD_UNIT;
    for (int64_t i = 0; i < skew + count + FGD_UNIT; i++)
        other[i] = p[i] * coder->ruler.before;
    FN(encode_part)(how, coder, FGD_PLAIN, other, at, count, NULL, out, signs);
    FN(decode_part)(kind, 0, out, count, how->offset, coder->ruler.step, 1.0f, other);
    FN(end_block)(memory, mode, 0, count, p + skew, other);
}

/* Where the codes of one ticket go: bytes at once, shorter ones in groups of eight, and what waits for the rest of its group. */
typedef struct {
    uint8_t *codes;
    int64_t held;
    int width;
    uint8_t waiting[FGD_BLOCK + 2 * FGD_UNIT], packed[FGD_BLOCK + 8];
} FN(sink);

/* Pack the `count` codes that have joined those waiting; the first of them is that of element `first`. */
static void FN(emit)(FN(sink) *sink, int64_t first, int64_t count)
{
    int64_t groups = (sink->held + count) / 8, done = (first - sink->held) / 8 * sink->width;
    FN(pack)(sink->waiting, groups, sink->width, sink->packed);
    memcpy(sink->codes + done, sink->packed, (size_t)(groups * sink->width));
    sink->held += count - 8 * groups;
    memmove(sink->waiting, sink->waiting + 8 * groups, (size_t)sink->held);
}

/* The last bytes of the vector, with zeros after the last code. */
static void FN(finish)(FN(sink) *sink, int64_t n)
{
    memset(sink->waiting + sink->held, 0, (size_t)(8 - sink->held));
    FN(pack)(sink->waiting, 1, sink->width, sink->packed);
    memcpy(sink->codes + (n - sink->held) / 8 * sink->width, sink->packed, (size_t)((sink->held * sink->width + 7) / 8));
}

/* The ruler of a bucket of `size` elements from `start` on; p is a block's room, filled with a bucket that fits. */
static fgd_ruler FN(measure)(const fgd_vector *x, const float *memory, fgd_mode mode, const fgd_levels *how, int64_t start,
                             int64_t size, const float *p, float *room)
{
    uint32_t top = 0;
    FN(lanes) squares;
    memset(&squares, 0, sizeof squares);
    for (int64_t at = 0; at < size; at += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, size - at);
        if (size > FGD_BLOCK) {
            FN(make)(x, memory, mode, start + at, count, room);
            p = room;
        }
        top = FN(largest)(p, count, top);
        if (how->l2)
            FN(add_squares)(p, count, &squares);
    }
    float most = fgd_float_of(top);
    return fgd_measure(how->l2 ? FN(norm)(&squares, most) : most, how->levels);
}

/* Formula: p from x and the memory (compress.h); M, the largest magnitude of a bucket or its norm; step = M / L; r = p / step;
 *          code = r rounded; c = code * step; the memory. TernGrad's M comes from a pass of its own, Natural has none.
 * Cost:    reads x and the memory, writes the memory and the codes. A block holds as many buckets as fit, measured one after the
 *          other before they are coded. A bucket of more than FGD_BLOCK elements is read twice.
 * Order:   squares in 32 lanes over the bucket, as docs/wire.md has them.
 */
static void FN(encode_levels)(const fgd_vector *x, float *memory, fgd_mode mode, const fgd_levels *how, int64_t lo, int64_t hi,
                              uint8_t *body)
{
    float p[FN(ROOM)] = {0};
    fgd_ruler ruler[FGD_BLOCK];
    ruler[0] = (fgd_ruler){0.0f, 1.0f, 0.0f};
    FN(sink) sink = {body, 0, how->width, {0}, {0}};
    FN(coder) coder = {{0.0f, 1.0f, 0.0f}, {0, 0}, -1, 0x1.8p23f + (float)how->offset, NULL, NULL, fgd_itemsize(x->dtype)};
    int64_t bucket = how->kind >= FGD_TERNARY ? FGD_BLOCK : how->bucket;
    int64_t group = bucket > FGD_GROUP ? bucket : FGD_GROUP / bucket * bucket;
    sink.codes += how->kind < FGD_TERNARY ? fgd_levels_steps(x->n, bucket) : how->kind == FGD_TERNARY ? 4 : 0;
    for (int64_t start = lo; start < hi; start += group) {
        int64_t size = FGD_MIN(group, hi - start), part = FGD_MIN(bucket, FGD_BLOCK);
        float *own = p + start % FGD_UNIT;
        if (size <= FGD_BLOCK)
            FN(make)(x, memory, mode, start, size, own);
        if (how->kind == FGD_TERNARY)
            ruler[0] = fgd_measure(how->largest, 1.0f);
        else if (how->kind < FGD_TERNARY)
            for (int64_t b = 0; b * bucket < size; b++) {
                ruler[b] = FN(measure)(x, memory, mode, how, start + b * bucket, FGD_MIN(bucket, size - b * bucket), own + b * bucket, own);
                memcpy(body + (start / bucket + b) * 4, &ruler[b].step, sizeof ruler[b].step);
            }
        for (int64_t at = 0; at < size; at += part) {
            int64_t count = FGD_MIN(part, size - at), first = start + at, place = at;
            if (size > FGD_BLOCK) {
                FN(make)(x, memory, mode, first, count, own);
                place = 0;
            }
            coder.ruler = ruler[at / bucket];
            coder.next_x = x->data + (first + FGD_MIN(group, FGD_BLOCK)) * coder.item;
            coder.next_memory = (const char *)(memory + first + FGD_MIN(group, FGD_BLOCK));
            uint8_t *out = how->width < 8 ? sink.waiting + sink.held : sink.codes + first;
            const float *from = own + place - first % FGD_UNIT;
            FN(encode_block)(how, &coder, mode, from, first, count, mode ? memory + first : NULL, out, body + x->n + first / 8);
            if (how->width < 8)
                FN(emit)(&sink, first, count);
        }
    }
    if (sink.held)
        FN(finish)(&sink, hi);
}

#undef VEC
#undef INT
#undef WORD
#undef WIDTH
#undef ROTATED
#undef HIGHER
#undef FLOOR
#undef SIGNS
#undef HALF
#undef LOW
#undef HIGH
