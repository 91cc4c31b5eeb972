/* What the files of the Sinkhorn sweeps share. */
#ifndef FGD_SINKHORN_SWEEPS_H
#define FGD_SINKHORN_SWEEPS_H

#include "sinkhorn_api.h"

/* Passes over the rows: a sweep; one that keeps the plan; one from such a plan; f from g; g from f; sums over rows and columns;
 * P v; P' v; P; its large entries counted, and written. */
enum { PASS_SWEEP, PASS_ABSORB, PASS_SCALED, PASS_ROWS, PASS_COLUMNS, PASS_MARGINALS, PASS_APPLY, PASS_TRANSPOSE, PASS_DENSE,
       PASS_COUNT, PASS_SPARSE };

enum { SINKHORN_CHUNKS = 32 }; /* at most, of equally many rows */

static const double LOG2E = 0x1.71547652b82fep0, LN2 = 0x1.62e42fefa39efp-1;

/* The step of up to four rows: sums of 2^(base log2 e + g - K); then f, what to multiply these with, errors. */
typedef struct {
    int count;
    double base[4], sum[4], next[4], factor[4], error[4];
} fgd_update;

/* Rows of a chunk: a multiple of 4. */
static inline int64_t sinkhorn_chunk(const fgd_transport *t)
{
    return FGD_MAX((t->rows + 4 * SINKHORN_CHUNKS - 1) / (4 * SINKHORN_CHUNKS), 1) * 4;
}

#endif
