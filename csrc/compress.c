/* The room `compress`: what belongs to no family of codecs. Decoding goes over the result in blocks that stay in the cache,
 * each block through all payloads in their order, so the result is read and written once however many payloads there are.
 * Sparse payloads, which touch little of a block and must look for its first index, take a ticket's elements at once.
 */
#include "compress_api.h"
#include "simd.h"
#include "rows.h"

enum { FGD_SCAN = 1 << 16, FGD_DECODE = 1 << 13 }; /* elements of a ticket; of a block that stays in the first-level cache */

#define FGD_BODY "compress_body.h"
#include "isa.h"

int64_t fgd_compress_tickets(int64_t n)
{
    return (n + FGD_SCAN - 1) / FGD_SCAN;
}

/* From the end to the beginning: the pass that follows goes the other way, and meets what is still in the cache. */
void fgd_compress_largest(const fgd_vector *x, const float *memory, fgd_mode mode, fgd_scan *scan)
{
    uint32_t mine = 0, known;
    for (int64_t hi; (hi = (fgd_compress_tickets(x->n) - fgd_take(&scan->job.next)) * FGD_SCAN) > 0;)
        mine = FGD_MAX(mine, FGD_CALL(largest)(x, memory, mode, hi - FGD_SCAN, FGD_MIN(hi, x->n)));
    float largest, seen;
    memcpy(&largest, &mine, sizeof largest);
    __atomic_load(&scan->most, &seen, __ATOMIC_RELAXED);
    do /* the bits of magnitudes are in their order, and those of NaN above all */
        memcpy(&known, &seen, sizeof known);
    while (known < mine && !__atomic_compare_exchange(&scan->most, &seen, &largest, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

void fgd_compress_identity(const fgd_vector *x, float *memory, fgd_mode mode, uint8_t *body, fgd_job *job)
{
    for (int64_t lo; (lo = fgd_take(&job->next) * FGD_SCAN) < x->n;)
        FGD_CALL(identity)(x, memory, mode, lo, FGD_MIN(FGD_SCAN, x->n - lo), body);
}

static int fgd_check_identity(const fgd_payload *q)
{
    return FGD_CALL(all_finite)(q->body, q->n) ? 0 : 1;
}

static void fgd_add_identity(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    FGD_CALL(add_floats)(q->body, lo, hi, scale, add, out);
}

typedef struct {
    int (*check)(const fgd_payload *);
    void (*add)(const fgd_payload *, int64_t, int64_t, float, int, float *);
    int64_t block;
} fgd_decoder;

static const fgd_decoder decoders[] = { /* by the codec's number on the wire */
    {fgd_check_identity, fgd_add_identity, FGD_DECODE},
    {fgd_check_topk, fgd_add_topk, FGD_SCAN},
    {fgd_check_randk, fgd_add_randk, FGD_DECODE},
    {fgd_check_threshold, fgd_add_threshold, FGD_SCAN},
    {fgd_check_sign, fgd_add_sign, FGD_DECODE},
    {fgd_check_onebit, fgd_add_onebit, FGD_DECODE},
    {fgd_check_qsgd, fgd_add_qsgd, FGD_DECODE},
    {fgd_check_terngrad, fgd_add_terngrad, FGD_DECODE},
    {fgd_check_natural, fgd_add_natural, FGD_DECODE},
    {fgd_check_int8, fgd_add_int8, FGD_DECODE},
    {fgd_check_fp8, fgd_add_fp8, FGD_DECODE},
    {fgd_check_drive, fgd_add_drive, FGD_DECODE},
    {fgd_check_countsketch, fgd_add_countsketch, FGD_DECODE},
    {fgd_check_powersgd, fgd_add_powersgd, FGD_DECODE},
};

int fgd_compress_check(const fgd_payload *q)
{
    return decoders[q->codec].check(q);
}

void fgd_compress_decode(const fgd_payload *q, int64_t count, float scale, int add, float *out, fgd_job *job)
{
    for (int64_t lo, next; (lo = fgd_take(&job->next) * FGD_SCAN) < q->n;)
        for (int64_t first = 0; first < count; first = next) { /* payloads with the same blocks */
            int64_t block = decoders[q[first].codec].block, hi = FGD_MIN(lo + FGD_SCAN, q->n);
            for (next = first + 1; next < count && decoders[q[next].codec].block == block;)
                next++;
            for (int64_t at = lo; at < hi; at += block)
                for (int64_t k = first; k < next; k++)
                    decoders[q[k].codec].add(q + k, at, FGD_MIN(at + block, hi), scale, add, out);
        }
}

/* One payload, lo <= i < hi, multiples of 4096 or n: all of it where its coordinates come in no order. */
void fgd_compress_decode_range(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    decoders[q->codec].add(q, lo, hi, scale, add, out);
}
