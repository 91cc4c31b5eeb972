/* Locality-sensitive hashes: how work is split, and the entry points. The kernels are in hashing_body.h. */
#include "random_api.h"
#include "robust_api.h"
#include "simd.h"

enum {
    FGD_FOLD = 4096,    /* positions onto which the coordinates are folded */
    FGD_STRIP = 1024,   /* positions whose signs are expanded at a time */
    FGD_FOLD_ROWS = 4,  /* vectors that share expanded signs */
    FGD_PANEL = 32,     /* planes of one word of signs */
    FGD_PANEL_ROWS = 16,
    FGD_RUN = 256,      /* matrix rows added before the sum joins the total */
    FGD_STRIPE = 512,   /* matrix columns of one ticket, at most */
    FGD_PAIRS = 64,     /* second hashes compared with one first hash in one ticket */
};

/* Sums from here on may have overflowed on the way, or be about to; NaN fails every comparison with it. */
#define FGD_SAFE 0x1p960

#include "rows.h" /* its scalar part, compiled for the baseline: the clones share it */
#define FGD_BODY "hashing_body.h"
#include "isa.h"

int64_t fgd_hashing_fold_chunks(int64_t count, int64_t tiles)
{
    return (count + FGD_FOLD_ROWS - 1) / FGD_FOLD_ROWS * tiles;
}

int fgd_hashing_fold(const fgd_rows *x, uint64_t seed, uint32_t step, const uint32_t *turn, int64_t first, int64_t count,
                     int64_t tiles, const double *scale, double *sums, char *unsafe, fgd_job *job)
{
    return FGD_CALL(fold)(x, seed, step, turn, first, count, tiles, scale, sums, unsafe, job);
}

int64_t fgd_hashing_planes_chunks(int64_t count, int64_t bits)
{
    return (count + FGD_PANEL_ROWS - 1) / FGD_PANEL_ROWS * ((bits + FGD_PANEL - 1) / FGD_PANEL);
}

void fgd_hashing_planes(const double *sums, int64_t count, int64_t width, uint64_t seed, int64_t plane, int64_t bits,
                        uint8_t *hashes, int64_t stride, fgd_job *job)
{
    FGD_CALL(planes)(sums, count, width, seed, plane, bits, hashes, stride, job);
}

int64_t fgd_hashing_hamming_chunks(int64_t n, int64_t m)
{
    return n * ((m + FGD_PAIRS - 1) / FGD_PAIRS);
}

void fgd_hashing_hamming(const uint8_t *a, const uint8_t *b, int64_t n, int64_t m, int64_t width, int64_t *distances,
                         fgd_job *job)
{
    int64_t chunks = fgd_hashing_hamming_chunks(n, m);
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < chunks;) {
        int64_t i = chunk % n, start = chunk / n * FGD_PAIRS, end = FGD_MIN(start + FGD_PAIRS, m);
        for (int64_t j = a == b && n == m ? FGD_MAX(start, i) : start; j < end; j++) {
            distances[i * m + j] = FGD_CALL(difference)(a + i * width, b + j * width, width);
            if (a == b && n == m) /* the other half of a symmetric matrix */
                distances[j * m + i] = distances[i * m + j];
        }
    }
}

/* Vectors of one ticket: few columns leave room for many. */
static int64_t fgd_batch(int64_t n, int64_t columns)
{
    return FGD_MAX(FGD_MIN(n, 2 * FGD_STRIPE / FGD_MAX(FGD_MIN(columns, FGD_STRIPE), 1)), 1);
}

int64_t fgd_hashing_columns_chunks(int64_t n, int64_t columns)
{
    int64_t batch = fgd_batch(n, columns);
    return (n + batch - 1) / batch * ((columns + FGD_STRIPE - 1) / FGD_STRIPE);
}

int fgd_hashing_columns(const fgd_rows *x, int64_t layer, int64_t length, int64_t columns, int64_t first, int64_t bits,
                        uint64_t seed, uint8_t *flags, int64_t stride, char *bad, fgd_job *job)
{
    return FGD_CALL(columns)(x->layer + layer, x->n, fgd_batch(x->n, columns), length, columns, first, bits, seed, flags,
                             stride, bad, job);
}
