/* What needs no codec's arithmetic, for one instruction set (isa.h): the scan of a vector, and Identity. */
#include "rows.h"
#include "compress.h"

/* The larger of `most` and the bits of the magnitudes: as integers they are in the same order. */
FGD_NOINLINE int32_t FN(larger)(const float *p, int64_t count, int32_t most)
{
    enum { PART = 256 };
    for (int64_t end; count > 0; p += end, count -= end) {
        end = FGD_MIN(PART, count);
        for (int64_t i = 0; i < PART; i += 16)
            FN(fetch)(p + i, NULL, FGD_PLAIN);
        for (int64_t i = 0; i < end; i++) {
            int32_t bits;
            memcpy(&bits, p + i, sizeof bits);
            bits &= INT32_MAX;
            most = FGD_MAX(most, bits);
        }
    }
    return most;
}

/* The largest bits of |p_i| as a float, elements lo .. hi - 1: at least 0x7f800000 where one is not finite. Reads x and the
 * memory. */
static uint32_t FN(largest)(const fgd_vector *x, const float *memory, fgd_mode mode, int64_t lo, int64_t hi)
{
    int32_t most = 0;
    if (mode == FGD_PLAIN && x->dtype == FGD_F32)
        return (uint32_t)FN(larger)((const float *)x->data + lo, hi - lo, most);
    for (; lo < hi; lo += FGD_BLOCK) {
        float p[FGD_BLOCK] __attribute__((aligned(64)));
        int64_t count = FGD_MIN(FGD_BLOCK, hi - lo);
        FN(begin_block)(x, memory, mode, lo, count, p);
        most = FN(larger)(p, count, most);
    }
    return (uint32_t)most;
}

/* c = p: elements lo .. lo + count - 1 into the body. Reads x and the memory, writes the body and the memory. */
static void FN(identity)(const fgd_vector *x, float *memory, fgd_mode mode, int64_t lo, int64_t count, uint8_t *body)
{
    float p[FGD_BLOCK] __attribute__((aligned(64)));
    for (int64_t end = lo + count; lo < end; lo += FGD_BLOCK) {
        int64_t size = FGD_MIN(FGD_BLOCK, end - lo);
        FN(begin_block)(x, memory, mode, lo, size, p);
        memcpy(body + 4 * lo, p, (size_t)size * sizeof *p);
        if (mode != FGD_PLAIN)
            FN(end_block)(memory, mode, lo, size, p, p);
    }
}

static void FN(add_floats)(const uint8_t *values, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    if (!add) {
        memcpy(out + lo, values + 4 * lo, (size_t)(hi - lo) * sizeof *out);
        return;
    }
    for (int64_t i = lo; i < hi; i++) {
        float c;
        memcpy(&c, values + 4 * i, sizeof c);
        out[i] = out[i] + scale * c;
    }
}

static int FN(all_finite)(const uint8_t *values, int64_t n)
{
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, values + 4 * i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most < 0x7f800000u;
}
