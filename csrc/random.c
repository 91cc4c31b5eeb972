/* The room `random`: how work is split, and the entry points. The kernels are in random_body.h. */
#include "random_api.h"
#include "rng.h"

#define FGD_BODY "random_body.h"
#include "isa.h"

enum { FGD_CHUNK = 1 << 16 }; /* elements of one ticket */

int64_t fgd_random_chunks(int64_t size)
{
    return (size + FGD_CHUNK - 1) / FGD_CHUNK;
}

/* Take chunks until none is left; each is elements `first` .. `first + count - 1` of the array. */
#define FOR_CHUNKS(size, job)                                                                                          \
    for (int64_t first, count; (first = fgd_take(&(job)->next) * FGD_CHUNK) < (size) &&                                \
                               (count = FGD_MIN((size) - first, (int64_t)FGD_CHUNK)) > 0;)

void fgd_random_bits32(uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out, fgd_job *job)
{
    FOR_CHUNKS(size, job)
        FGD_CALL(bits32)(seed, step, start + (uint64_t)first, count, out + first);
}

void fgd_random_hash32(uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out, fgd_job *job)
{
    FOR_CHUNKS(size, job)
        FGD_CALL(hash32)(seed, step, start + (uint64_t)first, count, out + first);
}

void fgd_random_uniform(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out, fgd_job *job)
{
    FOR_CHUNKS(size, job)
        FGD_CALL(uniform)(seed, step, start + (uint64_t)first, count, out + first);
}

void fgd_random_normal(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out, fgd_job *job)
{
    FOR_CHUNKS(size, job)
        FGD_CALL(normal)(seed, step, start + (uint64_t)first, count, out + first);
}

void fgd_random_rademacher(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out, fgd_job *job)
{
    FOR_CHUNKS(size, job)
        FGD_CALL(rademacher)(seed, step, start + (uint64_t)first, count, 1.0f, out + first);
}

void fgd_random_perturb_f32(uint64_t seed, uint32_t step, int signs, float scale, int64_t size, float *x, fgd_job *job)
{
    FOR_CHUNKS(size, job) {
        if (signs)
            FGD_CALL(perturb_rademacher_f32)(seed, step, (uint64_t)first, count, scale, x + first);
        else
            FGD_CALL(perturb_normal_f32)(seed, step, (uint64_t)first, count, scale, x + first);
    }
}

void fgd_random_perturb_f64(uint64_t seed, uint32_t step, int signs, double scale, int64_t size, double *x, fgd_job *job)
{
    FOR_CHUNKS(size, job) {
        if (signs)
            FGD_CALL(perturb_rademacher_f64)(seed, step, (uint64_t)first, count, scale, x + first);
        else
            FGD_CALL(perturb_normal_f64)(seed, step, (uint64_t)first, count, scale, x + first);
    }
}
