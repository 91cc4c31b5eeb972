/* What needs no codec's arithmetic, for one instruction set (isa.h): the scan of a vector, and Identity. */
#include "rows.h"
#include "compress.h"

/* The largest bits of |x_i| as a float, elements lo .. lo + count - 1: at least 0x7f800000 where one is not finite. Reads x. */
static uint32_t FN(largest)(const fgd_vector *x, int64_t lo, int64_t count)
{
    uint32_t most = 0;
    if (x->dtype == FGD_F32) {
        const uint32_t *bits = (const uint32_t *)x->data + lo;
        for (int64_t i = 0; i < count; i++) {
            uint32_t magnitude = bits[i] & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
        return most;
    }
    for (int64_t i = 0; i < count; i += FGD_BLOCK) {
        float block[FGD_BLOCK];
        uint32_t bits[FGD_BLOCK];
        int64_t size = FGD_MIN(FGD_BLOCK, count - i);
        FN(load_block)(x, lo + i, size, block);
        memcpy(bits, block, (size_t)size * sizeof *bits);
        for (int64_t k = 0; k < size; k++) {
            uint32_t magnitude = bits[k] & 0x7fffffffu;
            most = magnitude > most ? magnitude : most;
        }
    }
    return most;
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
