/* The kernels of the locality-sensitive hashes, for one instruction set (isa.h): simhash in two passes here, popcounts in
 * popcount.h, the layer-wise hash in column_hash.h. */
#include "rows.h"

/* Doubles in one register, and what becomes or moves with them: gcc takes wider vectors apart, element by element, when it
 * converts them. */
#if FGD_LEVEL == 2
#define HL 8
#define VD v8d
#define VS v8f
#define VQ v8i
#define VH v8si
#else
#define HL 4
#define VD v4d
#define VS v4f
#define VQ v4i
#define VH v4si
#endif

/* The sign of each position as bit 31 of a word: bit p mod 32 of word p / 32. */
FGD_INLINE void FN(expand)(const uint32_t *words, int64_t count, uint32_t *mask)
{
    const v16u low = {31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16};
    const v16u high = {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    for (int64_t i = 0; i < count; i++, mask += 32) {
        v16u word = (v16u){0} + words[i];
        v16u both[2] = {word << low & 0x80000000u, word << high & 0x80000000u};
        memcpy(mask, both, sizeof both);
    }
}

/* sums += +-x scale over `count` coordinates in a row; `sums` and `mask` have 16 elements to spare. */
FGD_INLINE void FN(add_signed)(const char *x, const int32_t dtype, int64_t count, const uint32_t *mask, const double scale,
                               double *sums)
{
    int64_t item = fgd_itemsize(dtype);
    for (int64_t c = 0; c < count; c += 16, x += 16 * item, mask += 16, sums += 16) {
        __builtin_prefetch(x + 2048);
        VD value[16 / HL];
        if (dtype == FGD_F64) {
            VQ part[16 / HL] = {0};
            memcpy(part, x, count - c >= 16 ? sizeof part : (size_t)(count - c) * 8);
            for (int h = 0; h < 16 / HL; h++) {
                VH sign;
                memcpy(&sign, mask + h * HL, sizeof sign);
                value[h] = (VD)(part[h] ^ __builtin_convertvector(sign, VQ) << 32);
            }
        } else {
            v16u sign;
            VS part[16 / HL];
            memcpy(&sign, mask, sizeof sign);
            sign ^= (v16u)(count - c >= 16 ? FN(load_f)(x, dtype) : FN(load_tail_f)(x, dtype, count - c));
            memcpy(part, &sign, sizeof part);
            for (int h = 0; h < 16 / HL; h++)
                value[h] = __builtin_convertvector(part[h], VD);
        }
        for (int h = 0; h < 16 / HL; h++) {
            VD sum;
            memcpy(&sum, sums + h * HL, sizeof sum);
            sum += value[h] * scale;
            memcpy(sums + h * HL, &sum, sizeof sum);
        }
    }
}

FGD_NOINLINE void FN(add_piece)(const char *x, int32_t dtype, int64_t count, const uint32_t *mask, double scale, double *sums)
{
    if (scale != 1.0)
        FN(add_signed)(x, dtype, count, mask, scale, sums);
    else if (dtype == FGD_F32)
        FN(add_signed)(x, FGD_F32, count, mask, 1.0, sums);
    else if (dtype == FGD_F64)
        FN(add_signed)(x, FGD_F64, count, mask, 1.0, sums);
    else if (dtype == FGD_F16)
        FN(add_signed)(x, FGD_F16, count, mask, 1.0, sums);
    else
        FN(add_signed)(x, FGD_BF16, count, mask, 1.0, sums);
}

/* Where a coordinate of the vector lies. */
typedef struct {
    int64_t layer, offset; /* the layer, and its first coordinate in the vector */
} FN(place);

/* Coordinates [c, c + count) of `rows` vectors from `first` on, whatever layers they lie in. */
FGD_INLINE void FN(add_span)(const fgd_rows *x, FN(place) *at, int64_t first, int64_t rows, int64_t c, int64_t count,
                             const uint32_t *mask, const double *scale, double *sums, int64_t pitch)
{
    while (count > 0) {
        while (c < at->offset)
            at->offset -= x->layer[--at->layer].size;
        while (c >= at->offset + x->layer[at->layer].size)
            at->offset += x->layer[at->layer++].size;
        const fgd_layer *layer = x->layer + at->layer;
        int64_t part = FGD_MIN(count, at->offset + layer->size - c);
        for (int64_t r = 0; r < rows; r++)
            FN(add_piece)(fgd_row(layer, first + r) + (c - at->offset) * fgd_itemsize(layer->dtype), layer->dtype, part, mask,
                          scale[r], sums + r * pitch);
        c += part;
        count -= part;
        mask += part;
        sums += part;
    }
}

/* Formula: S_i[p] = scale_i sum_k A(k, p) x_i[4096 k + (p - turn_k) mod 4096], A the signs of bits32(seed, step).
 * Cost:    one read of x, an exclusive-or, a conversion and an addition a coordinate; the sums of 4 vectors in the cache.
 * Order:   ascending k, in double: what is a ticket, a layer or another vector never matters.
 */
FGD_NOINLINE int FN(fold)(const fgd_rows *x, uint64_t seed, uint32_t step, const uint32_t *turn, int64_t first, int64_t count,
                          int64_t tiles, const double *scale, double *sums, char *unsafe, fgd_job *job)
{
    int64_t tile = FGD_FOLD / tiles, pitch = tile + 16, width = FGD_MIN(x->d, FGD_FOLD);
    int64_t chunks = fgd_hashing_fold_chunks(count, tiles);
    double *own = fgd_scratch(8 * FGD_FOLD_ROWS * pitch);
    if (!own)
        return -1;
    FN(place) at = {0, 0};
    uint32_t mask[FGD_STRIP + 16] = {0}; /* the last 16 are read beside a strip's end, with zeros of x, and stay 0 */
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < chunks;) {
        int64_t row = chunk / tiles * FGD_FOLD_ROWS, rows = FGD_MIN(FGD_FOLD_ROWS, count - row);
        int64_t lo = chunk % tiles * tile, hi = FGD_MIN(lo + tile, width);
        if (lo >= hi)
            continue;
        memset(own, 0, (size_t)(8 * FGD_FOLD_ROWS * pitch));
        for (int64_t k = 0; k * FGD_FOLD < x->d; k++) {
            uint32_t words[FGD_FOLD / 32];
            fgd_job whole = {0, 0};
            fgd_random_bits32(seed, step, (uint64_t)(k * FGD_FOLD + lo) / 32, (hi - lo + 31) / 32, words, &whole);
            for (int64_t strip = lo; strip < hi; strip += FGD_STRIP) {
                int64_t end = FGD_MIN(strip + FGD_STRIP, hi), turned = turn[k];
                FN(expand)(words + (strip - lo) / 32, (end - strip + 31) / 32, mask);
                for (int part = 0; part < 2; part++) { /* the positions before and from the turn on: neighbours in x */
                    int64_t p = part ? FGD_MAX(strip, turned) : strip, q = part ? end : FGD_MIN(end, turned);
                    int64_t c = k * FGD_FOLD + p - turned + (part ? 0 : FGD_FOLD);
                    FN(add_span)(x, &at, first + row, rows, c, FGD_MIN(q - p, x->d - c), mask + (p - strip), scale + row,
                                 own + (p - lo), pitch);
                }
            }
        }
        for (int64_t r = 0; r < rows; r++) {
            int outside = 0;
            for (int64_t p = 0; p < hi - lo; p++)
                outside |= !(fabs(own[r * pitch + p]) < FGD_SAFE);
            if (outside)
                unsafe[row + r] = 1;
            memcpy(sums + (row + r) * width + lo, own + r * pitch, (size_t)(hi - lo) * 8);
        }
    }
    free(own);
    return 0;
}

/* The signs of 32 planes at one position as bit 63 of each lane. */
FGD_INLINE void FN(plane_signs)(uint32_t word, VQ *sign)
{
    for (int v = 0; v < FGD_PANEL / HL; v++) {
        VQ shift;
        for (int l = 0; l < HL; l++)
            shift[l] = 63 - v * HL - l;
        sign[v] = (VQ){0} + word;
        sign[v] = (sign[v] << shift) & INT64_MIN;
    }
}

/* Formula: bit b = 1 where sum_p C_b(p) S[p] > 0, C the signs of bits32(seed, 0): bit b mod 32 of word 4096 (b / 32) + p.
 * Cost:    an exclusive-or and an addition for 8 (vector, position, plane)s; the signs of 32 positions serve 16 vectors.
 * Order:   ascending p, in double, each plane for itself.
 */
FGD_NOINLINE void FN(planes)(const double *sums, int64_t count, int64_t width, uint64_t seed, int64_t plane, int64_t bits,
                             uint8_t *hashes, int64_t stride, fgd_job *job)
{
    enum { BLOCK = 4, SPAN = 32 };
    int64_t panels = (bits + FGD_PANEL - 1) / FGD_PANEL, chunks = fgd_hashing_planes_chunks(count, bits);
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < chunks;) {
        int64_t panel = chunk % panels, row = chunk / panels * FGD_PANEL_ROWS, rows = FGD_MIN(FGD_PANEL_ROWS, count - row);
        VD total[FGD_PANEL_ROWS][FGD_PANEL / HL];
        VQ sign[SPAN][FGD_PANEL / HL];
        uint32_t words[128];
        memset(total, 0, sizeof total);
        for (int64_t p = 0; p < width; p += SPAN) {
            int64_t span = FGD_MIN(SPAN, width - p);
            fgd_job whole = {0, 0};
            if (p % 128 == 0)
                fgd_random_bits32(seed, 0, (uint64_t)((plane / FGD_PANEL + panel) * FGD_FOLD + p), 128, words, &whole);
            for (int64_t q = 0; q < span; q++)
                FN(plane_signs)(words[p % 128 + q], sign[q]);
            for (int64_t r = 0; r < rows; r++) {
                const double *s = sums + (row + r) * width + p;
                for (int h = 0; h < FGD_PANEL / HL; h += BLOCK) {
                    VD acc[BLOCK];
                    memcpy(acc, total[r] + h, sizeof acc);
                    for (int64_t q = 0; q < span; q++) {
                        VD value = (VD){0} + s[q];
#pragma GCC unroll 4
                        for (int v = 0; v < BLOCK; v++)
                            acc[v] += (VD)((VQ)value ^ sign[q][h + v]);
                    }
                    memcpy(total[r] + h, acc, sizeof acc);
                }
            }
        }
        for (int64_t r = 0; r < rows; r++) {
            int64_t first = plane + panel * FGD_PANEL, left = FGD_MIN(FGD_PANEL, bits - panel * FGD_PANEL);
            uint8_t packed[FGD_PANEL / 8] = {0};
            for (int64_t b = 0; b < left; b++)
                packed[b / 8] |= (uint8_t)((total[r][b / HL][b % HL] > 0.0) << b % 8);
            memcpy(hashes + (row + r) * stride + first / 8, packed, (size_t)((left + 7) / 8));
        }
    }
}

#include "popcount.h"
#include "column_hash.h"

#undef HL
#undef VD
#undef VS
#undef VQ
#undef VH
