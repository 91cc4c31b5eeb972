/* Sign, OneBit and the majority vote: how work is split, and the entry points. The kernels are in compress_signs_body.h. */
#include "compress_api.h"
#include "simd.h"
#include "rows.h"

enum { FGD_VOTER_BITS = 24, FGD_SIGN_CHUNKS = 16 }; /* chunks a ticket */

typedef struct {
    double lower, upper; /* sums of magnitudes below zero and not below, or all in `lower` */
    int64_t below;       /* elements below zero */
} fgd_sides;

#define FGD_BODY "compress_signs_body.h"
#include "isa.h"

static int64_t sign_chunks(int64_t n)
{
    return (n + FGD_BLOCK - 1) / FGD_BLOCK;
}

int64_t fgd_compress_signs_tickets(int64_t n)
{
    return (sign_chunks(n) + FGD_SIGN_CHUNKS - 1) / FGD_SIGN_CHUNKS;
}

/* Bits, memory and the chunks' sums. `sums` has room for 3 numbers a chunk: those of fgd_sides. */
void fgd_compress_signs(const fgd_vector *x, float *memory, fgd_mode mode, float upper, float lower, uint8_t *bits, double *sums,
                        int sides, fgd_job *job)
{
    int64_t chunks = sign_chunks(x->n);
    for (int64_t ticket; (ticket = fgd_take(&job->next)) * FGD_SIGN_CHUNKS < chunks;)
        for (int64_t c = ticket * FGD_SIGN_CHUNKS; c < FGD_MIN(chunks, (ticket + 1) * FGD_SIGN_CHUNKS); c++) {
            fgd_sides result = {0};
            int64_t lo = c * FGD_BLOCK;
            FGD_CALL(chunk_signs)(x, memory, mode, lo, FGD_MIN(FGD_BLOCK, x->n - lo), upper, lower, bits, &result, sides);
            sums[c] = result.lower;
            sums[chunks + c] = result.upper;
            sums[2 * chunks + c] = (double)result.below;
        }
}

/* A total over chunks, in the lanes of docs/wire.md. */
static double total(const double *sums, int64_t chunks)
{
    double lane[FGD_LANES] = {0};
    for (int64_t c = 0; c < chunks; c++)
        lane[c % FGD_LANES] += sums[c];
    for (int step = FGD_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; l++)
            lane[l] += lane[l + step];
    return lane[0];
}

/* Sign: total / n. OneBit: the means of the upper and of the lower side. */
void fgd_compress_scales(const double *sums, int64_t n, int sides, uint8_t *body)
{
    int64_t chunks = sign_chunks(n);
    double below = total(sums + 2 * chunks, chunks); /* counts: no order of adding rounds them */
    float lower = (float)(total(sums, chunks) / FGD_MAX(sides ? below : (double)n, 1.0));
    float upper = (float)(total(sums + chunks, chunks) / FGD_MAX((double)n - below, 1.0));
    float means[2] = {upper, 0.0f - lower};
    memcpy(body, sides ? means : &lower, (sides ? 2 : 1) * sizeof lower);
}

/* The memory of DIFFERENCE: c is added once its scale is known. */
void fgd_compress_add_bits(const uint8_t *bits, int64_t n, float upper, float lower, float *out, fgd_job *job)
{
    int64_t columns = (int64_t)FGD_BLOCK * FGD_SIGN_CHUNKS;
    for (int64_t lo; (lo = fgd_take(&job->next) * columns) < n;)
        FGD_CALL(add_bits)(bits, lo, FGD_MIN(lo + columns, n), upper, lower, 1, out);
}

/* ---- decoding */

static float float_at(const uint8_t *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Finite, and not below zero: not -0 either. */
static int is_size(const uint8_t *p)
{
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    return bits < 0x7f800000u;
}

static int bad_padding(const uint8_t *bits, int64_t n)
{
    return n % 8 && bits[n / 8] >> n % 8;
}

int fgd_check_sign(const fgd_payload *q)
{
    return !is_size(q->body) ? 1 : bad_padding(q->body + 4, q->n) ? 4 : 0;
}

int fgd_check_onebit(const fgd_payload *q)
{
    float lower = float_at(q->body + 4);
    int fine = is_size(q->body) && (is_size(q->body + 4) ? lower == 0.0f : lower < 0.0f && lower > -INFINITY);
    return !fine ? 1 : bad_padding(q->body + 8, q->n) ? 4 : 0;
}

void fgd_add_sign(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    float up = add ? scale * float_at(q->body) : float_at(q->body);
    FGD_CALL(add_bits)(q->body + 4, lo, hi, up, -up, add, out);
}

void fgd_add_onebit(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    float upper = float_at(q->body), lower = float_at(q->body + 4);
    FGD_CALL(add_bits)(q->body + 8, lo, hi, add ? scale * upper : upper, add ? scale * lower : lower, add, out);
}

/* ---- majority vote on n bits */

int64_t fgd_compress_vote_tickets(int64_t n)
{
    return (n + (1 << 18) - 1) >> 18;
}

void fgd_compress_vote(const uint8_t *const *bits, int64_t voters, int64_t n, uint8_t *out, fgd_job *job)
{
    int64_t bytes = (n + 7) / 8;
    for (int64_t lo; (lo = fgd_take(&job->next) << 15) < bytes;)
        for (int64_t at = lo; at < FGD_MIN(lo + (1 << 15), bytes); at += 64)
            FGD_CALL(vote_line)(bits, voters, at, FGD_MIN(64, bytes - at), out);
}
