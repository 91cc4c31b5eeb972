/* The kernels of QSGD, Int8, FP8, TernGrad and Natural, for one instruction set (isa.h): buckets here, the coding of 32 elements
 * in compress_levels_unit.h, decoding in compress_decode_levels.h, packing in compress_pack.h. docs/wire.md fixes every bit. */
#include "rows.h"
#include "compress.h"
#include "compress_pack.h"
#include "compress_decode_levels.h"
#include "compress_levels_unit.h"

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

/* Codes of one block, elements [at, at + count), which lie from p[at mod FGD_UNIT] on. A key serves 2^32 hashed indices, that is,
 * 2^33 elements. */
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

/* The same for any ruler: where `before` is not 1, which is as good as never, from scaled coordinates, the memory afterwards.
 * Zeros lose their signs where there is nothing else: FP8 would keep them. */
static void FN(encode_block)(const fgd_levels *how, FN(coder) *coder, fgd_mode mode, const float *p, int64_t at, int64_t count,
                             float *memory, uint8_t *out, uint8_t *signs)
{
    if (coder->ruler.before == 1.0f && (coder->ruler.step > 0.0f || how->kind == FGD_NATURAL)) {
        FN(encode_part)(how, coder, mode, p, at, count, memory, out, signs);
        return;
    }
    float other[FN(ROOM)];
    int kind = how->kind == FGD_STOCHASTIC && !how->offset ? FGD_NEAREST : how->kind; /* Int8's codes say not how it rounded */
    int64_t skew = at % FGD_UNIT;
    for (int64_t i = 0; i < skew + count + FGD_UNIT; i++)
        other[i] = coder->ruler.step > 0.0f ? p[i] * coder->ruler.before : 0.0f;
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
    FN(coder) coder = {{0.0f, 1.0f, 0.0f}, {0, 0}, -1, how->offset, NULL, NULL, fgd_itemsize(x->dtype)};
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
                int64_t from = b * bucket, length = FGD_MIN(bucket, size - from);
                ruler[b] = FN(measure)(x, memory, mode, how, start + from, length, own + from, own);
                memcpy(body + (start + from) / bucket * 4, &ruler[b].step, sizeof ruler[b].step);
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
#undef NEAREST
#undef SIGNS
#undef HALF
#undef LOW
#undef HIGH
