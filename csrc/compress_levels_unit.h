/* Codes of 32 elements at a time, for one instruction set; included by compress_levels_body.h, which ends these macros. */

/* ---- vectors as wide as the machine's registers, and what C has no word for */

#if FGD_LEVEL == 2
#define VEC v16f
#define INT v16i
#define WORD v16u
#define WIDTH 16
#define ROTATED(v) (v16u) _mm512_rol_epi32((__m512i)(v), 16)
#define HIGHER(a, b) (v16f) _mm512_max_ps((__m512)(a), (__m512)(b))
#define NEAREST(v) (v16i) _mm512_cvtps_epi32((__m512)(v))
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
#define NEAREST(v) (v8si) _mm256_cvtps_epi32((__m256)(v))
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
#define HALF v2d
#define LOW(v) (v2d){(v)[0], (v)[1]}
#define HIGH(v) (v2d){(v)[2], (v)[3]}
#if FGD_X86_CLONES
#define HIGHER(a, b) (v4f) _mm_max_ps((__m128)(a), (__m128)(b))
#define NEAREST(v) (v4si) _mm_cvtps_epi32((__m128)(v))
#define SIGNS(v) (uint32_t) _mm_movemask_ps((__m128)(v))
#else
#define HIGHER(a, b) FN(higher)(a, b)
#define NEAREST(v) FN(nearest)(v)
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

/* Of numbers that an int holds: to the nearest, ties to even. From 2^23 on they are integers. */
FGD_INLINE v4si FN(nearest)(v4f v)
{
    v4si sign = (v4si)v & INT32_MIN;
    v4f size = (v4f)((v4si)v & INT32_MAX), shift = (v4f)((v4si)(size < 0x1p23f) & (v4si)((v4f){0} + 0x1p23f));
    return __builtin_convertvector((v4f)((v4si)(size + shift - shift) | sign), v4si);
}
#endif
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

/* The code of r in a format with so many fraction bits and that least exponent, in the low byte, and its value. In `shifted` the
 * unit of r's place in the format is the last bit, so the addition rounds and leaves in its low bits how many units there are:
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
    int32_t offset; /* what a code adds to its number */
    const char *next_x, *next_memory; /* what is fetched for the block after this one */
    int64_t item;
} FN(coder);

/* Codes of WIDTH coordinates p, in the low bytes; *c is what they decode to. */
FGD_INLINE INT FN(code)(const int kind, const FN(coder) *how, VEC p, WORD word, VEC *c)
{
    VEC zero = {0}, r = p * how->ruler.inverse, fine = p * (how->ruler.inverse * 0x1p24f), value;
    INT one = (INT)(zero + 1.0f), code;
    if (kind == FGD_NEAREST) {
        VEC shift = zero + 0x1.8p23f, shifted = r + shift; /* rounds to integers, and leaves them in the low byte */
        value = shifted - shift;
        code = (INT)shifted;
    } else if (kind == FGD_STOCHASTIC) {
        INT number = (NEAREST(fine) + (INT)(word >> 8)) >> 24; /* 24 bits behind the point, and as many random ones */
        value = __builtin_convertvector(number, VEC);
        code = number + how->offset;
    } else if (kind == FGD_TERNARY) {
        INT taken = NEAREST((VEC)((INT)fine & INT32_MAX)) > (INT)(word >> 8), negative = p < zero;
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

/* ---- FGD_UNIT coordinates: codes, signs (Natural) and the memory. `first` is the first of the indices hashed: 16 words serve 16
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

/* `count` of the coordinates of a unit, from p[skew] on; what becomes of the others, zeros or a neighbour's, is dropped.
 * `memory` and `out` are those of p[skew]; `memory` is not used in PLAIN, `signs` by Natural alone, whose skew is 0. */
FGD_INLINE void FN(part_of_unit)(const int kind, const FN(coder) *how, const fgd_mode mode, const float *p, uint32_t first,
                                 int64_t skew, int64_t count, float *memory, uint8_t *out, uint8_t *signs)
{
    float part[FGD_UNIT] = {0};
    uint8_t codes[FGD_UNIT];
    if (mode != FGD_PLAIN)
        memcpy(part + skew, memory, (size_t)count * sizeof *part);
    uint32_t word = FN(unit)(kind, how, mode, p, first, part, codes) & (((uint32_t)1 << count) - 1);
    if (mode != FGD_PLAIN)
        memcpy(memory, part + skew, (size_t)count * sizeof *part);
    memcpy(out, codes + skew, (size_t)count);
    if (kind == FGD_NATURAL)
        memcpy(signs, &word, (size_t)(count + 7) / 8);
}

/* The same for any number of coordinates; p is readable in whole units. */
FGD_INLINE void FN(units)(const int kind, const FN(coder) *how, const fgd_mode mode, const float *p, uint32_t first, int64_t skew,
                          int64_t count, float *memory, uint8_t *out, uint8_t *signs)
{
    int64_t i = skew ? FGD_MIN(FGD_UNIT - skew, count) : 0; /* coordinates done */
    if (i)
        FN(part_of_unit)(kind, how, mode, p, first, skew, i, memory, out, signs);
    p += skew;
    first += (uint32_t)(skew + i) / 2;
    const FN(coder) own = *how; /* in registers: as far as C knows, `out` may overwrite *how */
    for (; i + FGD_UNIT <= count; i += FGD_UNIT, first += FGD_UNIT / 2) {
        __builtin_prefetch(own.next_x + i * own.item);
        __builtin_prefetch(own.next_x + (i + FGD_UNIT / 2) * own.item);
        if (mode != FGD_PLAIN) {
            __builtin_prefetch(own.next_memory + i * 4);
            __builtin_prefetch(own.next_memory + (i + FGD_UNIT / 2) * 4);
        }
        uint32_t word = FN(unit)(kind, &own, mode, p + i, first, mode ? memory + i : NULL, out + i);
        if (kind == FGD_NATURAL)
            memcpy(signs + i / 8, &word, sizeof word);
    }
    if (i < count)
        FN(part_of_unit)(kind, how, mode, p + i, first, 0, count - i, mode ? memory + i : NULL, out + i, signs + i / 8);
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

