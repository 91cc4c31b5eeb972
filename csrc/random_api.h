/* What Python calls of the room `random`; conventions: fastgd.h. */
#ifndef FASTGD_RANDOM_API_H
#define FASTGD_RANDOM_API_H

#include "fastgd.h"

/* cdef begin */

/* ---- random (csrc/random_body.h): elements start .. start + size - 1 of the streams of (seed, step) */
int64_t fgd_random_chunks(int64_t size);
void fgd_random_bits32(uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out, fgd_job *job);
void fgd_random_hash32(uint64_t seed, uint32_t step, uint64_t start, int64_t size, uint32_t *out, fgd_job *job);
void fgd_random_uniform(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out, fgd_job *job);
void fgd_random_normal(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out, fgd_job *job);
void fgd_random_rademacher(uint64_t seed, uint32_t step, uint64_t start, int64_t size, float *out, fgd_job *job);
/* x += scale * noise, the noise's elements 0 .. size - 1; signs: Rademacher, else normal */
void fgd_random_perturb_f32(uint64_t seed, uint32_t step, int signs, float scale, int64_t size, float *x, fgd_job *job);
void fgd_random_perturb_f64(uint64_t seed, uint32_t step, int signs, double scale, int64_t size, double *x, fgd_job *job);

/* cdef end */

#endif
