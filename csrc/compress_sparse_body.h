/* TopK, Threshold and RandK for one instruction set (isa.h). docs/wire.md fixes every bit.
 *
 * A magnitude is the bits of a float without the sign: an integer that grows with |p|, Inf and NaN above all finite ones.
 */
#include "rows.h"
#include "rng.h"
#include "compress.h"

#define MAGNITUDE(bits) ((bits) & 0x7fffffffu)

FGD_INLINE uint32_t FN(bits_at)(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

FGD_INLINE uint32_t FN(bits_of)(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

FGD_INLINE float FN(float_of)(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* memory += x on one chunk. */
static void FN(add_chunk)(const fgd_vector *x, float *memory, int64_t lo, int64_t count)
{
    float converted[FGD_BLOCK] __attribute__((aligned(64)));
    for (int64_t at = 0; at < count; at += FGD_BLOCK) {
        int64_t some = FGD_MIN(count - at, FGD_BLOCK);
        const float *g = (const float *)x->data + lo + at;
        if (x->dtype != FGD_F32) {
            FN(load_block)(x, lo + at, some, converted);
            g = converted;
        }
        for (int64_t i = 0; i < some; i++)
            memory[lo + at + i] += g[i];
    }
}

/* ---- vectors as wide as the machine's registers: LARGE(v, least) has a bit for each lane whose magnitude is above `least` */

#if FGD_LEVEL == 2
#define VEC v16f
#define WORDS v16i
#define LANES 16
#define LARGE(v, least) (uint32_t) _mm512_cmpgt_epi32_mask((__m512i)((WORDS)(v) & 0x7fffffff), (__m512i)(least))
#elif FGD_LEVEL == 1
#define VEC v8f
#define WORDS v8si
#define LANES 8
#define LARGE(v, least) (uint32_t) _mm256_movemask_ps((__m256)(((WORDS)(v) & 0x7fffffff) > (least)))
#else
#define VEC v4f
#define WORDS v4si
#define LANES 4
#if FGD_X86_CLONES
#define LARGE(v, least) (uint32_t) _mm_movemask_ps((__m128)(((WORDS)(v) & 0x7fffffff) > (least)))
#else
#define LARGE(v, least) FN(large)(v, least)
FGD_INLINE uint32_t FN(large)(v4f v, v4si least)
{
    v4si above = ((v4si)v & 0x7fffffff) > least;
    return (uint32_t)((above[0] & 1) | (above[1] & 2) | (above[2] & 4) | (above[3] & 8));
}
#endif
#endif

/* One vector of p. */
FGD_INLINE VEC FN(load_p)(const float *g, const float *m, const fgd_mode mode)
{
    VEC p, was;
    memcpy(&p, g, sizeof p);
    if (mode != FGD_PLAIN)
        memcpy(&was, m, sizeof was);
    return mode == FGD_FEEDBACK ? was + p : mode == FGD_DIFFERENCE ? p - was : p;
}

/* ---- one chunk's candidates
 *
 * Formula: the coordinates and values of p with a magnitude of at least `key`, in order; how many. p as in compress.h; with
 *          FEEDBACK it becomes the memory. Where `cleared`, which points to the memory or is NULL, that is 0 at the candidates of
 *          at least `middle`. `index` and `value` have room for as many words as there are elements.
 * Cost:    reads x and the memory (PLAIN: x alone), writes the memory in FEEDBACK, and the candidates. Groups of 16 that hold any
 *          are listed first, which takes no branch that depends on the data; only those are looked at again.
 */
FGD_INLINE int64_t FN(scan_floats)(const float *g, float *m, float *cleared, const fgd_mode mode, int64_t count, uint32_t lo,
                                   uint32_t key, uint32_t middle, uint8_t *index, uint8_t *value)
{
    int64_t i = 0, found = 0, groups = 0;
    uint16_t group[FGD_BLOCK / 16 + 1];
    WORDS least = (WORDS){0} + ((int32_t)key - 1), less = (WORDS){0} + (int32_t)(middle - 1);
    for (; i + 16 <= count; i += 16) {
        uint32_t any = 0;
        FN(fetch)(g + i, m + i, mode);
#pragma GCC unroll 4
        for (int j = 0; j < 16; j += LANES) {
            VEC p = FN(load_p)(g + i + j, m + i + j, mode);
            if (mode == FGD_FEEDBACK)
                memcpy(m + i + j, &p, sizeof p);
            any |= LARGE(p, least);
        }
        group[groups] = (uint16_t)i;
        groups += any != 0;
    }
    const float *from = mode == FGD_FEEDBACK ? m : g;
    const fgd_mode again = mode == FGD_FEEDBACK ? FGD_PLAIN : mode;
    for (int64_t e = 0; e < groups; e++) {
        int64_t first = group[e];
#if FGD_LEVEL == 2
        /* A compressed vector is stored whole: what follows its words is overwritten by the next. */
        VEC p = FN(load_p)(from + first, m + first, again);
        __mmask16 large = (__mmask16)LARGE(p, least);
        WORDS at = (WORDS){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (int32_t)(lo + (uint32_t)first);
        _mm512_storeu_si512(index + 4 * found, _mm512_maskz_compress_epi32(large, (__m512i)at));
        _mm512_storeu_si512(value + 4 * found, _mm512_maskz_compress_epi32(large, (__m512i)p));
        if (cleared) { /* a whole store: masked ones take longer */
            VEC rest = (VEC)_mm512_maskz_mov_ps((__mmask16)~LARGE(p, less), (__m512)p);
            memcpy(cleared + first, &rest, sizeof rest);
        }
        found += __builtin_popcount(large);
#else
        uint32_t large = 0, clear = 0;
        float p[16];
#pragma GCC unroll 4
        for (int j = 0; j < 16; j += LANES) {
            VEC v = FN(load_p)(from + first + j, m + first + j, again);
            memcpy(p + j, &v, sizeof v);
            large |= LARGE(v, least) << j;
            clear |= LARGE(v, less) << j;
        }
        for (; large; large &= large - 1, found++) {
            int j = __builtin_ctz(large);
            uint32_t at = lo + (uint32_t)(first + j);
            memcpy(index + 4 * found, &at, sizeof at);
            memcpy(value + 4 * found, p + j, sizeof *p);
            if (cleared)
                cleared[first + j] = clear >> j & 1 ? 0.0f : p[j];
        }
#endif
    }
    for (; i < count; i++) {
        float p = mode == FGD_FEEDBACK ? m[i] + g[i] : mode == FGD_DIFFERENCE ? g[i] - m[i] : g[i];
        if (mode == FGD_FEEDBACK)
            m[i] = p;
        uint32_t at = lo + (uint32_t)i, bits = FN(bits_of)(p);
        if (MAGNITUDE(bits) >= key) {
            memcpy(index + 4 * found, &at, sizeof at);
            memcpy(value + 4 * found, &bits, sizeof bits);
            if (cleared && MAGNITUDE(bits) >= middle)
                cleared[i] = 0.0f;
            found++;
        }
    }
    return found;
}

static int64_t FN(scan)(const fgd_vector *x, float *memory, fgd_mode mode, uint32_t middle, int64_t lo, int64_t count,
                        uint32_t key, uint8_t *index, uint8_t *value)
{
    float converted[FGD_BLOCK] __attribute__((aligned(64)));
    int64_t found = 0;
    for (int64_t at = 0; at < count; at += FGD_BLOCK) {
        int64_t some = FGD_MIN(count - at, FGD_BLOCK);
        const float *g = (const float *)x->data + lo + at;
        if (x->dtype != FGD_F32) {
            FN(load_block)(x, lo + at, some, converted);
            g = converted;
        }
        float *m = memory ? memory + lo + at : converted; /* PLAIN has none, and m is not read */
        float *cleared = middle < FGD_BEYOND ? m : NULL;
        uint8_t *i = index + 4 * found, *v = value + 4 * found;
        uint32_t first = (uint32_t)(lo + at);
        found += mode == FGD_FEEDBACK     ? FN(scan_floats)(g, m, cleared, FGD_FEEDBACK, some, first, key, middle, i, v)
                 : mode == FGD_DIFFERENCE ? FN(scan_floats)(g, m, NULL, FGD_DIFFERENCE, some, first, key, middle, i, v)
                                          : FN(scan_floats)(g, m, cleared, FGD_PLAIN, some, first, key, middle, i, v);
    }
    return found;
}

/* Magnitudes of one line in each of `lines` parts, at places that follow no pattern of the vector's: a hash, less than 2^32,
 * scaled to the part. */
static void FN(load_sample)(const fgd_vector *x, const float *memory, fgd_mode mode, int64_t lines, int64_t part, uint32_t *value)
{
    uint64_t places = (uint64_t)(part - FGD_SAMPLE_LINE + 1);
    for (int64_t j = 0; j < lines; j++, value += FGD_SAMPLE_LINE) {
        float p[FGD_SAMPLE_LINE];
        int64_t at = j * part + (int64_t)((uint64_t)fgd_mix32((uint32_t)j) * places >> 32);
        FN(begin_block)(x, memory, mode, at, FGD_SAMPLE_LINE, p);
        for (int i = 0; i < FGD_SAMPLE_LINE; i++)
            value[i] = MAGNITUDE(FN(bits_of)(p[i]));
    }
}

/* ---- counting */

/* The magnitudes from `low` to below `high`, in order, at `to`, which may be `value` and has room for 16 more; how many. */
static int64_t FN(between)(const uint32_t *value, int64_t count, uint32_t low, uint32_t high, uint32_t *to)
{
    int64_t i = 0, found = 0;
#if FGD_LEVEL == 2
    __m512i from = _mm512_set1_epi32((int32_t)low), span = _mm512_set1_epi32((int32_t)(high - low));
    __m512i size = _mm512_set1_epi32(0x7fffffff);
    for (; i + 16 <= count; i += 16) {
        __m512i v = _mm512_and_si512(_mm512_loadu_si512(value + i), size);
        __mmask16 inside = _mm512_cmplt_epu32_mask(_mm512_sub_epi32(v, from), span);
        _mm512_storeu_si512(to + found, _mm512_maskz_compress_epi32(inside, v));
        found += __builtin_popcount(inside);
    }
#endif
    for (; i < count; i++) {
        uint32_t v = MAGNITUDE(value[i]);
        to[found] = v;
        found += v - low < high - low;
    }
    return found;
}

/* The `rank`-th largest of the magnitudes `value`, all from `low` to below `high`, 1 <= rank <= count.
 *
 * Formula: halves of the range, counted; once half of the magnitudes are outside, the others are moved together.
 * Cost:    31 reads of all at most, some ten where values differ. `value`, with room for 16 more, is used up.
 */
static uint32_t FN(kth_largest)(uint32_t *value, int64_t count, int64_t rank, uint32_t low, uint32_t high)
{
    for (int64_t left = count; high - low > 1;) {
        uint32_t middle = low + (high - low) / 2, span = high - middle, upper = 0;
        for (int64_t i = 0; i < count; i++)
            upper += value[i] - middle < span;
        if (upper >= rank) {
            low = middle;
            left = upper;
        } else {
            high = middle;
            left -= upper;
            rank -= upper;
        }
        if (2 * left <= count)
            count = FN(between)(value, count, low, high, value);
    }
    return low;
}

/* How many magnitudes are above the key, and how many are it. */
static void FN(tally)(const uint32_t *value, int64_t count, uint32_t key, int64_t *above, int64_t *equal)
{
    uint32_t larger = 0, same = 0;
    for (int64_t i = 0; i < count; i++) {
        larger += MAGNITUDE(value[i]) > key;
        same += MAGNITUDE(value[i]) == key;
    }
    *above = larger;
    *equal = same;
}

/* Formula: of the magnitudes in [key, key + span), counts in bins of 2^shift: in bin[4 b + i % 4], so that equal neighbours do
 *          not wait for each other. All others count into the bin behind the last, which takes no branch. With FEEDBACK p becomes
 *          the memory.
 * Cost:    reads x and the memory, writes the memory in FEEDBACK, and an increment an element.
 */
static void FN(histogram)(const fgd_vector *x, float *memory, fgd_mode mode, int64_t lo, int64_t count, uint32_t key,
                          uint32_t span, uint32_t shift, uint32_t *bin)
{
    float p[FGD_BLOCK];
    uint32_t place[FGD_BLOCK];
    for (int64_t at = 0; at < count; at += FGD_BLOCK) {
        int64_t some = FGD_MIN(count - at, FGD_BLOCK);
        FN(begin_block)(x, memory, mode, lo + at, some, p);
        if (mode == FGD_FEEDBACK)
            memcpy(memory + lo + at, p, (size_t)some * sizeof *p);
        for (int64_t i = 0; i < some; i++) {
            uint32_t above = MAGNITUDE(FN(bits_of)(p[i])) - key;
            place[i] = 4 * (FGD_MIN(above, span) >> shift) + (uint32_t)(i % 4);
        }
        for (int64_t i = 0; i < some; i++)
            bin[place[i]]++;
    }
}

/* ---- what is kept of one chunk's candidates: those above the key, and the first `ties` of those equal to it
 *
 * `cleared` is NULL or the memory, which is 0 at those of at least `middle`; it becomes 0 at those that are kept instead.
 */
static int64_t FN(filter)(const uint32_t *index, const uint32_t *value, int64_t count, uint32_t key, int64_t ties, float *cleared,
                          uint32_t middle, uint8_t *indices, uint8_t *values)
{
    int64_t i = 0, kept = 0;
#if FGD_LEVEL == 2
    /* Stores stop where this chunk's place ends: the next one's is another thread's. */
    uint32_t places[FGD_CORRECTED + 32], floats[FGD_CORRECTED + 32];
    int wrong = 0;
    __m512i limit = _mm512_set1_epi32((int32_t)key), size = _mm512_set1_epi32(0x7fffffff);
    __m512i zero = _mm512_set1_epi32((int32_t)middle);
    for (; i < count; i += 16) {
        __mmask16 inside = count - i < 16 ? (__mmask16)((1u << (count - i)) - 1) : (__mmask16)0xffff;
        __m512i at = _mm512_maskz_loadu_epi32(inside, index + i), bits = _mm512_maskz_loadu_epi32(inside, value + i);
        __m512i magnitude = _mm512_and_si512(bits, size);
        uint32_t large = _mm512_mask_cmpgt_epu32_mask(inside, magnitude, limit);
        uint32_t equal = _mm512_mask_cmpeq_epu32_mask(inside, magnitude, limit);
        for (; equal && ties; equal &= equal - 1, ties--)
            large |= equal & -equal;
        uint32_t found = (uint32_t)__builtin_popcount(large);
        __mmask16 first = (__mmask16)((1u << found) - 1);
        _mm512_mask_storeu_epi32(indices + 4 * kept, first, _mm512_maskz_compress_epi32((__mmask16)large, at));
        _mm512_mask_storeu_epi32(values + 4 * kept, first, _mm512_maskz_compress_epi32((__mmask16)large, bits));
        kept += found;
        if (cleared) { /* listed first: a loop over a few bits would be a branch that nobody can predict */
            uint32_t change = large ^ _mm512_mask_cmpge_epu32_mask(inside, magnitude, zero);
            __m512i rest = _mm512_maskz_mov_epi32((__mmask16)~large, bits);
            _mm512_storeu_si512(places + wrong, _mm512_maskz_compress_epi32((__mmask16)change, at));
            _mm512_storeu_si512(floats + wrong, _mm512_maskz_compress_epi32((__mmask16)change, rest));
            wrong += __builtin_popcount(change);
            if (wrong > FGD_CORRECTED || count - i <= 16) {
                for (int j = 0; j < wrong; j++)
                    memcpy(cleared + places[j], floats + j, sizeof *floats);
                wrong = 0;
            }
        }
    }
#endif
    for (; i < count; i++) {
        uint32_t magnitude = MAGNITUDE(value[i]);
        int keep = magnitude > key || (magnitude == key && ties);
        if (cleared && keep != (magnitude >= middle))
            cleared[index[i]] = keep ? 0.0f : FN(float_of)(value[i]);
        if (!keep)
            continue;
        ties -= magnitude == key;
        memcpy(indices + 4 * kept, index + i, sizeof *index);
        memcpy(values + 4 * kept, value + i, sizeof *value);
        kept++;
    }
    return kept;
}

/* The memory where c = p was kept: p - c is 0, or c is added. */
static void FN(remember)(float *memory, fgd_mode mode, const uint8_t *index, const uint8_t *value, int64_t count)
{
    if (mode == FGD_FEEDBACK)
        for (int64_t j = 0; j < count; j++)
            memory[FN(bits_at)(index + 4 * j)] = 0.0f;
    else if (mode == FGD_DIFFERENCE)
        for (int64_t j = 0; j < count; j++)
            memory[FN(bits_at)(index + 4 * j)] += FN(float_of)(FN(bits_at)(value + 4 * j));
}

/* ---- a bucket of kept values in eight bits
 *
 * Formula: step = M / 127, the next lower float where 127 steps overflow; code = (p h) (127 / (M h)) rounded to even, 0 where the
 *          step is 0; c = code step. docs/wire.md has h.
 * Cost:    reads the values twice, writes a byte each.
 */
static void FN(quantise)(const float *p, int64_t count, const uint8_t *index, float *memory, fgd_mode mode, uint8_t *step_out,
                         int8_t *code)
{
    uint32_t most = 0;
    for (int64_t j = 0; j < count; j++) {
        uint32_t size = MAGNITUDE(FN(bits_of)(p[j]));
        most = size > most ? size : most;
    }
    float largest = FN(float_of)(most), step = largest / 127.0f, c[FGD_VALUES_BUCKET];
    if (step * 127.0f == INFINITY)
        step = FN(float_of)(FN(bits_of)(step) - 1);
    memcpy(step_out, &step, sizeof step);
    float h = largest < 0x1p-64f ? 0x1p64f : largest > 0x1p64f ? 0x1p-64f : 1.0f;
    float inverse = step == 0.0f ? 0.0f : 127.0f / (largest * h);
    for (int64_t j = 0; j < count; j++) {
        /* The sum's last bit is worth 1: it rounds to even, and its low byte is the integer. */
        float rounded = (p[j] * h) * inverse + 0x1.8p23f;
        code[j] = (int8_t)(uint8_t)FN(bits_of)(rounded);
        c[j] = (float)code[j] * step;
    }
    if (mode == FGD_FEEDBACK)
        for (int64_t j = 0; j < count; j++)
            memory[FN(bits_at)(index + 4 * j)] = p[j] - c[j];
    else if (mode == FGD_DIFFERENCE)
        for (int64_t j = 0; j < count; j++)
            memory[FN(bits_at)(index + 4 * j)] += c[j];
}

/* ---- RandK */

/* floor(a h / 2^32), so nearly uniform on 0 .. a - 1; then the sum modulo a. */
FGD_INLINE uint32_t FN(turn)(uint32_t l, uint32_t h, uint32_t a)
{
    uint32_t sum = l + (uint32_t)((uint64_t)h * a >> 32);
    return FGD_MIN(sum, sum - a); /* sum - a wraps around where sum is below a */
}

/* One pass: 8 rounds, each on all pairs, so that the loops vectorise. */
FGD_INLINE void FN(pass)(const fgd_network *w, int64_t count, uint32_t *l, uint32_t *r)
{
    uint32_t a = w->a, b = w->b;
    for (int t = 0; t < FGD_RANDK_ROUNDS; t += 2) {
        fgd_hash_key even = w->key[t], odd = w->key[t + 1];
        for (int64_t j = 0; j < count; j++) {
            l[j] = FN(turn)(l[j], fgd_hash32(r[j], even), a);
            r[j] = FN(turn)(r[j], fgd_hash32(l[j], odd), b);
        }
    }
}

/* Formula: index[i] = pi(j + i), at most FGD_RANDK_BATCH of them.
 * Cost:    8 hashes an index; with sides of about the root of n one pass in about root n needs another. */
FGD_NOINLINE void FN(permute)(const fgd_network *w, int64_t j, int64_t count, int64_t *index)
{
    uint32_t l[FGD_RANDK_BATCH], r[FGD_RANDK_BATCH], u[FGD_RANDK_BATCH], v[FGD_RANDK_BATCH], place[FGD_RANDK_BATCH];
    uint32_t row = (uint32_t)((uint64_t)j / w->b), column = (uint32_t)((uint64_t)j % w->b);
    for (int64_t i = 0; i < count; i++) {
        l[i] = row;
        r[i] = column;
        column = column + 1 == w->b ? 0 : column + 1;
        row += column == 0;
    }
    FN(pass)(w, count, l, r);
    int64_t walking = 0;
    for (int64_t i = 0; i < count; i++) {
        index[i] = (int64_t)((uint64_t)l[i] * w->b + r[i]);
        u[walking] = l[i];
        v[walking] = r[i];
        place[walking] = (uint32_t)i;
        walking += (uint64_t)index[i] >= w->n;
    }
    while (walking) {
        FN(pass)(w, walking, u, v);
        int64_t left = 0;
        for (int64_t i = 0; i < walking; i++) {
            uint64_t at = (uint64_t)u[i] * w->b + v[i];
            index[place[i]] = (int64_t)at;
            u[left] = u[i];
            v[left] = v[i];
            place[left] = place[i];
            left += at >= w->n;
        }
        walking = left;
    }
}

/* Values at the indices, scaled in double and rounded once to float; the memory (which holds p in FEEDBACK). */
FGD_NOINLINE void FN(gather)(const fgd_vector *x, float *memory, fgd_mode mode, const int64_t *index, int64_t count, int scaled,
                             double factor, uint8_t *values)
{
    float p[FGD_RANDK_BATCH] __attribute__((aligned(64)));
    if (mode == FGD_FEEDBACK)
        for (int64_t i = 0; i < count; i++)
            p[i] = memory[index[i]];
    else if (x->dtype == FGD_F32)
        for (int64_t i = 0; i < count; i++)
            p[i] = ((const float *)x->data)[index[i]];
    else {
        uint16_t half[FGD_RANDK_BATCH] = {0};
        for (int64_t i = 0; i < count; i++)
            memcpy(half + i, x->data + 2 * index[i], sizeof *half);
        fgd_vector halves = {(const char *)half, x->dtype, FGD_RANDK_BATCH};
        FN(load_block)(&halves, 0, count, p);
    }
    if (mode == FGD_DIFFERENCE)
        for (int64_t i = 0; i < count; i++)
            p[i] = p[i] - memory[index[i]];
    for (int64_t i = 0; i < count; i++) {
        double product = (double)p[i] * factor;
        product = product > FLT_MAX ? FLT_MAX : product < -FLT_MAX ? -FLT_MAX : product;
        float c = scaled ? (float)product : p[i];
        memcpy(values + 4 * i, &c, sizeof c);
        if (mode == FGD_FEEDBACK)
            memory[index[i]] = p[i] - c;
        else if (mode == FGD_DIFFERENCE)
            memory[index[i]] += c;
    }
}

#undef MAGNITUDE
#undef VEC
#undef WORDS
#undef LANES
#undef LARGE
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
