/* Drive: how work is split, and the entry points. The kernels are in compress_rotation_body.h. */
#include "compress_api.h"
#include "rng.h"
#include "rows.h"

enum { FGD_DRIVE = 4096, FGD_DRIVE_BLOCKS = 8 }; /* coordinates of a block; blocks of a ticket */

/* The positive levels of 1, 2, 3 and 4 bits: the centroids of the standard normal distribution times 1024, rounded, which costs
 * less than 1e-5 of the error. 4096 of them add up to less than 2^24: a decoder's transform is exact in float32, in any order. */
static const float fgd_drive_levels[5][16] = {
    {0}, {1}, {464, 1547}, {251, 774, 1376, 2204}, {131, 397, 673, 965, 1286, 1657, 2119, 2798}};

/* What is encoded, and how. */
typedef struct {
    fgd_vector x;
    float *memory;
    fgd_mode mode;
    int bits, unbiased;
} fgd_drive_input;

/* The coordinates that the codes of a block of `count` stand for: the least power of two that holds them. */
static inline int64_t fgd_drive_size(int64_t count)
{
    int64_t size = 1;
    while (size < count)
        size *= 2;
    return size;
}

/* 2^exponent, of a normal number. */
static inline double fgd_power(int exponent)
{
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

#define FGD_BODY "compress_rotation_body.h"
#include "isa.h"

enum { STREAM_BYTES = 16, SEED_BYTES = 8, STEP_BYTES = 4 };

static int64_t drive_blocks(int64_t n)
{
    return (n + FGD_DRIVE - 1) / FGD_DRIVE;
}

int64_t fgd_compress_drive_tickets(int64_t n)
{
    return (drive_blocks(n) + FGD_DRIVE_BLOCKS - 1) / FGD_DRIVE_BLOCKS;
}

/* Scales and codes behind the stream in `body`, and the memory. */
void fgd_compress_drive(const fgd_vector *x, float *memory, fgd_mode mode, int bits, int unbiased, uint64_t seed, uint32_t step,
                        uint8_t *body, fgd_job *job)
{
    fgd_drive_input in = {*x, memory, mode, bits, unbiased};
    int64_t blocks = drive_blocks(x->n);
    uint8_t *scales = body + STREAM_BYTES, *codes = scales + 4 * blocks;
    for (int64_t ticket; (ticket = fgd_take(&job->next)) * FGD_DRIVE_BLOCKS < blocks;) {
        int64_t first = ticket * FGD_DRIVE_BLOCKS;
        FGD_CALL(drive_encode)(&in, seed, step, first, FGD_MIN(blocks, first + FGD_DRIVE_BLOCKS), scales, codes);
    }
}

int fgd_check_drive(const fgd_payload *q)
{
    static const uint8_t none[4];
    int64_t blocks = drive_blocks(q->n), bits = q->a;
    const uint8_t *scales = q->body + STREAM_BYTES, *codes = scales + 4 * blocks;
    if (memcmp(q->body + SEED_BYTES + STEP_BYTES, none, sizeof none))
        return 4;
    for (int64_t j = 0; j < blocks; j++) {
        int64_t size = fgd_drive_size(FGD_MIN(FGD_DRIVE, q->n - j * FGD_DRIVE));
        const uint8_t *block = codes + j * (FGD_DRIVE / 8 * bits);
        uint32_t scale;
        memcpy(&scale, scales + 4 * j, sizeof scale);
        if (scale >= 0x7f800000u)
            return 1;
        for (int64_t k = 0; scale == 0 && k < size * bits / 8; k++)
            if (block[k])
                return 3;
        int64_t rest = size * bits % 8; /* only a block of less than 8 has one */
        if (rest && block[size * bits / 8] >> (scale ? rest : 0))
            return scale ? 4 : 3;
    }
    return 0;
}

void fgd_add_drive(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    const uint8_t *scales = q->body + STREAM_BYTES, *codes = scales + 4 * drive_blocks(q->n);
    uint64_t seed;
    uint32_t step;
    memcpy(&seed, q->body, sizeof seed);
    memcpy(&step, q->body + SEED_BYTES, sizeof step);
    FGD_CALL(drive_decode)((int)q->a, seed, step, lo, hi, scales, codes, scale, add, out);
}
