/* fastgd's C core: every function the Python side calls. The text between the cdef marks is also read by cffi.
 *
 * Conventions. Functions are single-threaded and called without the GIL. Work that can be split takes `ticket`, a counter
 * shared by all callers of one job: each caller atomically takes the next chunk until none is left. What a chunk is
 * depends on the problem's size alone, and partial sums are combined in chunk order, so results do not depend on the
 * number of callers. Functions that need scratch memory return 0, or -1 when there is none to be had.
 */
#ifndef FASTGD_H
#define FASTGD_H

#include <stdint.h>

/* cdef begin */

/* ---- instruction sets: 0 = baseline, 1 = x86-64-v3 (AVX2, FMA), 2 = x86-64-v4 (AVX-512) */
int fgd_isa_best(void);       /* the highest level this build has and this CPU runs */
int fgd_isa_current(void);    /* the level in use */
void fgd_isa_use(int level);  /* choose a level, capped at fgd_isa_best() */

/* ---- n vectors in layers (fastgd/_rows.py) */
typedef struct {
    const char *base;         /* stacked rows: row i starts `i * stride` bytes behind base */
    int64_t stride;
    const char *const *row;   /* or, when not NULL, one pointer per row */
    int64_t size;             /* coordinates of one row in this layer */
    int32_t dtype;            /* 0 float32, 1 float64, 2 float16, 3 bfloat16 */
} fgd_layer;

typedef struct {
    int64_t n;                /* vectors */
    int64_t d;                /* coordinates: the sum of the layers' sizes */
    int64_t n_layers;
    const fgd_layer *layer;
    fgd_layer own;            /* where `layer` points when one stacked layer is all there is */
} fgd_rows;

void fgd_rows_stacked(fgd_rows *x, const char *base, int64_t n, int64_t size, int32_t dtype); /* (n, size), C order */

/* One job: the state shared by all callers that work on it. Zero-initialise. */
typedef struct {
    int64_t next;             /* the ticket: next chunk to take */
    int64_t broken;           /* 1 + the lowest coordinate with more non-finite values than tolerated; 0: there is none */
} fgd_job;

/* ---- the benchmark's roofs (csrc/peak.c): `steps` rounds of independent multiply-adds, or of loads that wait for each other in
 * one chain or in 16 chains, at[0 .. 15]; they return the flops, or the loads, done */
double fgd_peak(int64_t steps, int wide);
int64_t fgd_chase(const int64_t *next, int64_t *at, int overlapped, int64_t steps);

/* cdef end */

#endif
