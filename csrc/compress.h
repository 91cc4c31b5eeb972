/* What the codecs' bodies share, for one instruction set (isa.h): the input, block by block, and what becomes of the memory.
 *
 *              the codec's input p    the memory afterwards, c = C(p)
 * PLAIN        x                      there is none
 * FEEDBACK     memory + x             p - c
 * DIFFERENCE   x - memory             memory + c
 *
 * A block of p lies in the first-level cache, BLOCK floats at most, between its making and its end. Every operation is one
 * float32
 * operation, rounded once, so a memory has the same bits wherever it was computed.
 */
#ifndef FGD_COMPRESS_ONCE
#define FGD_COMPRESS_ONCE

enum { FGD_BLOCK = 2048, FGD_LANES = 32, FGD_FETCH_AHEAD = 4096 }; /* elements, elements, bytes */

/* The seed of stochastic rounding on a rank is made in Python; here it is just a stream. */
typedef struct {
    uint64_t seed;
    uint32_t step;
} fgd_stream;

#endif

#ifdef FGD_LEVEL

/* Ask for 64 bytes FGD_FETCH_AHEAD further on, of x and (not in PLAIN) of the memory. Processors look ahead no further than a
 * page of 4096 bytes, and too little where several cores wait for one memory. What lies beyond an array's end does no harm. */
FGD_INLINE void FN(fetch)(const float *x, const float *memory, const fgd_mode mode)
{
    __builtin_prefetch((const char *)x + FGD_FETCH_AHEAD);
    if (mode == FGD_FEEDBACK)
        __builtin_prefetch((const char *)memory + FGD_FETCH_AHEAD, 1);
    else if (mode == FGD_DIFFERENCE)
        __builtin_prefetch((const char *)memory + FGD_FETCH_AHEAD);
}

/* `count` elements from `lo` on as float32. */
FGD_INLINE void FN(load_block)(const fgd_vector *x, int64_t lo, int64_t count, float *p)
{
    if (x->dtype == FGD_F32) {
        memcpy(p, (const float *)x->data + lo, (size_t)count * sizeof *p);
        return;
    }
    const char *from = x->data + 2 * lo;
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        v16f v = x->dtype == FGD_F16 ? FN(load_f)(from + 2 * i, FGD_F16) : FN(load_f)(from + 2 * i, FGD_BF16);
        memcpy(p + i, &v, sizeof v);
    }
    if (i < count) {
        v16f v = FN(load_tail_f)(from + 2 * i, x->dtype, count - i);
        memcpy(p + i, &v, (size_t)(count - i) * sizeof *p);
    }
}

/* p, `count` elements from `lo` on. */
FGD_INLINE void FN(begin_block)(const fgd_vector *x, const float *memory, fgd_mode mode, int64_t lo, int64_t count, float *p)
{
    if (mode == FGD_PLAIN) {
        FN(load_block)(x, lo, count, p);
        return;
    }
    const float *m = memory + lo;
    if (x->dtype == FGD_F32) {
        const float *g = (const float *)x->data + lo;
        if (mode == FGD_FEEDBACK)
            for (int64_t i = 0; i < count; i++)
                p[i] = m[i] + g[i];
        else
            for (int64_t i = 0; i < count; i++)
                p[i] = g[i] - m[i];
        return;
    }
    FN(load_block)(x, lo, count, p);
    if (mode == FGD_FEEDBACK)
        for (int64_t i = 0; i < count; i++)
            p[i] = m[i] + p[i];
    else
        for (int64_t i = 0; i < count; i++)
            p[i] = p[i] - m[i];
}

/* The memory after p became c. */
FGD_INLINE void FN(end_block)(float *memory, fgd_mode mode, int64_t lo, int64_t count, const float *p, const float *c)
{
    float *m = memory + lo;
    if (mode == FGD_FEEDBACK)
        for (int64_t i = 0; i < count; i++)
            m[i] = p[i] - c[i];
    else if (mode == FGD_DIFFERENCE)
        for (int64_t i = 0; i < count; i++)
            m[i] += c[i];
}

#endif
