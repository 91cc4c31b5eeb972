/* QSGD, Int8, FP8, TernGrad and Natural: how work is split, checks of received bodies, and the entry points. The kernels are in
 * compress_levels_body.h, packing in compress_pack.h. */
#include "compress_api.h"
#include "rng.h"
#include "simd.h"
#include "rows.h"

enum {
    FGD_LEVELS_SPAN = 1 << 15, /* elements of a ticket, at least */
    FGD_UNIT = 32,             /* elements coded at a time */
    FGD_GROUP = 1024, /* elements of the small buckets that are measured together */
};

/* How a coordinate becomes a code. */
enum { FGD_NEAREST, FGD_STOCHASTIC, FGD_E4M3, FGD_E5M2, FGD_TERNARY, FGD_NATURAL };

/* What a bucket's coordinates are divided and multiplied by: r = (x * before) * inverse, c = code * step. */
typedef struct {
    float step, before, inverse;
} fgd_ruler;

/* How a received body is laid out, and which codes exist: those with
 * ((code + bias) & mask) <= last. */
typedef struct {
    int kind, width;
    int32_t offset;
    uint8_t zero, bias, mask, last; /* zero: the code of 0 */
    float levels;
    int64_t bucket;
    const uint8_t *codes;
} fgd_layout;

FGD_INLINE uint32_t fgd_bits_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

FGD_INLINE float fgd_float_of(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The float `by` places further from zero. */
FGD_INLINE float fgd_next(float v, int by)
{
    return fgd_float_of(fgd_bits_of(v) + (uint32_t)by);
}

/* The ruler of a bucket with that largest magnitude and number of levels (docs/wire.md). A step below the normal numbers is
 * rounded up and the inverse down, so that no coordinate lies beyond the last level; `before` keeps the inverse and 2^24 times it
 * normal numbers. The rounds, four at most, are bounded for what is not finite. */
FGD_INLINE fgd_ruler fgd_measure(float top, float levels)
{
    fgd_ruler ruler = {top / levels, 1.0f, 0.0f};
    if (top == 0.0f)
        return ruler;
    if (ruler.step * levels > 0x1.fffffep127f)
        ruler.step = fgd_next(ruler.step, -1);
    else if (ruler.step < 0x1p-126f && ruler.step * levels < top)
        ruler.step = fgd_next(ruler.step, 1);
    if (ruler.step < 0x1p-100f)
        ruler.before = 0x1p64f;
    else if (ruler.step > 0x1p126f)
        ruler.before = 0x1p-64f;
    ruler.inverse = 1.0f / (ruler.step * ruler.before);
    for (int round = 0; round < 8 && top * ruler.before * ruler.inverse > levels; round++)
        ruler.inverse = fgd_next(ruler.inverse, -1);
    return ruler;
}

/* The bytes of a body that come before its codes. */
FGD_INLINE int64_t fgd_levels_steps(int64_t n, int64_t bucket)
{
    return (n + bucket - 1) / bucket * 4;
}

#define FGD_BODY "compress_levels_body.h"
#include "isa.h"

/* Elements of a ticket: whole buckets, and whole bytes of codes. TernGrad's and Natural's buckets say nothing: any 8 elements. */
static int64_t levels_span(const fgd_levels *how)
{
    int64_t least = how->kind >= FGD_TERNARY ? 8 : how->bucket;
    while (least % 8)
        least *= 2;
    return (FGD_LEVELS_SPAN + least - 1) / least * least;
}

int64_t fgd_compress_levels_tickets(const fgd_levels *how, int64_t n)
{
    int64_t span = levels_span(how);
    return (n + span - 1) / span;
}

void fgd_compress_levels(const fgd_vector *x, float *memory, fgd_mode mode, const fgd_levels *how, uint8_t *body, fgd_job *job)
{
    int64_t span = levels_span(how);
    for (int64_t lo; (lo = fgd_take(&job->next) * span) < x->n;)
        FGD_CALL(encode_levels)(x, memory, mode, how, lo, FGD_MIN(lo + span, x->n), body);
}

/* ---- received bodies */

enum { FGD_BAD_VALUE = 1, FGD_BAD_CODE = 3, FGD_BAD_PADDING = 4 };

static fgd_layout levels_layout(const fgd_payload *q, int kind)
{
    fgd_layout l = {kind, 8, 0, 0, 0, 255, 254, 1.0f, q->a, q->body + fgd_levels_steps(q->n, FGD_MAX(q->a, 1))};
    if (kind == FGD_STOCHASTIC) { /* QSGD */
        l.width = 32 - __builtin_clz((unsigned)(2 * q->b));
        l.offset = (int32_t)q->b;
        l.zero = (uint8_t)q->b;
        l.last = (uint8_t)(2 * q->b);
        l.levels = (float)q->b;
    } else if (kind == FGD_NEAREST) { /* Int8: -128 does not exist */
        l.bias = 127;
        l.levels = 127.0f;
    } else if (kind == FGD_E4M3 || kind == FGD_E5M2) {
        l.mask = 127;
        l.last = kind == FGD_E4M3 ? 0x7e : 0x7b;
        l.levels = kind == FGD_E4M3 ? 448.0f : 57344.0f;
    } else if (kind == FGD_TERNARY) {
        l.width = l.last = 2;
        l.bucket = FGD_MAX(q->n, 1);
        l.codes = q->body + 4; /* there is a scale even for no coordinates */
    } else {
        l.codes = q->body;
        l.bucket = FGD_MAX(q->n, 1);
    }
    return l;
}

static int fp8_kind(const fgd_payload *q)
{
    return q->option ? FGD_E5M2 : FGD_E4M3;
}

/* Steps, codes, then what follows the last code. */
static int check_levels(const fgd_payload *q, int kind)
{
    fgd_layout l = levels_layout(q, kind);
    for (const uint8_t *at = q->body; at < l.codes; at += 4) {
        uint32_t bits;
        memcpy(&bits, at, sizeof bits);
        if (bits >= 0x7f800000u || fgd_bits_of(fgd_float_of(bits) * l.levels) >= 0x7f800000u)
            return FGD_BAD_VALUE;
    }
    if (!FGD_CALL(codes_exist)(&l, q->body, q->n))
        return FGD_BAD_CODE;
    int64_t bits = q->n * l.width;
    return bits % 8 && l.codes[bits / 8] >> bits % 8 ? FGD_BAD_PADDING : 0;
}

int fgd_check_qsgd(const fgd_payload *q)
{
    return check_levels(q, FGD_STOCHASTIC);
}

int fgd_check_int8(const fgd_payload *q)
{
    return check_levels(q, FGD_NEAREST);
}

int fgd_check_fp8(const fgd_payload *q)
{
    return check_levels(q, fp8_kind(q));
}

int fgd_check_terngrad(const fgd_payload *q)
{
    return check_levels(q, FGD_TERNARY);
}

/* No sign where the value is 0. */
int fgd_check_natural(const fgd_payload *q)
{
    const uint8_t *signs = q->body + q->n;
    int code, sign;
    FGD_CALL(natural_faults)(q->body, q->n, &code, &sign);
    return sign ? FGD_BAD_VALUE : code ? FGD_BAD_CODE : q->n % 8 && signs[q->n / 8] >> q->n % 8 ? FGD_BAD_PADDING : 0;
}

void fgd_add_qsgd(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    fgd_layout l = levels_layout(q, FGD_STOCHASTIC);
    FGD_CALL(add_levels)(&l, q->body, q->n, lo, hi, scale, add, out);
}

void fgd_add_int8(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    fgd_layout l = levels_layout(q, FGD_NEAREST);
    FGD_CALL(add_levels)(&l, q->body, q->n, lo, hi, scale, add, out);
}

void fgd_add_fp8(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    fgd_layout l = levels_layout(q, fp8_kind(q));
    FGD_CALL(add_levels)(&l, q->body, q->n, lo, hi, scale, add, out);
}

void fgd_add_terngrad(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    fgd_layout l = levels_layout(q, FGD_TERNARY);
    FGD_CALL(add_levels)(&l, q->body, q->n, lo, hi, scale, add, out);
}

void fgd_add_natural(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    FGD_CALL(add_natural)(q->body, q->n, lo, hi, scale, add, out);
}
