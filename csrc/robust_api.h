/* What Python calls of the room `robust`; conventions: fastgd.h. */
#ifndef FASTGD_ROBUST_API_H
#define FASTGD_ROBUST_API_H

#include "fastgd.h"

/* cdef begin */

/* ---- robust (csrc/robust_body.h) */
int64_t fgd_robust_pairwise_chunks(int64_t n, int64_t d);
int64_t fgd_robust_pairwise_partial(int64_t n); /* doubles of partial sums a chunk */
/* `wanted` (NULL: all) says which tiles of 4 x 4 pairs to compute; `wide`: in double whatever the dtype */
int fgd_robust_pairwise(const fgd_rows *x, const char *wanted, int wide, double *partial, char *bad, fgd_job *job);
void fgd_robust_pairwise_sum(int64_t n, int64_t chunks, const double *partial, const char *wanted, const char *bad,
                             double *sqdist);
int fgd_robust_pairwise_sample(const fgd_rows *x, int64_t strips, int64_t width, double *partial, char *bad);
int fgd_robust_gram(const fgd_rows *x, int64_t centre, double *partial, fgd_job *job);
int64_t fgd_robust_gram_sum(int64_t n, int64_t chunks, const double *partial, double *sqdist, char *wanted); /* tiles wanted */
int fgd_robust_choose(const double *sqdist, int64_t n, int64_t k, int64_t m, double error, double *scores, const char *bad,
                      int64_t *selected, char *doubt, int64_t *doubtful);
int fgd_robust_select(const fgd_rows *x, int64_t k, int64_t m, double *scores, char *bad, int64_t *selected);
int fgd_robust_krum_scores(const double *sqdist, int64_t n, int64_t k, double *scores);
/* one point against all: n doubles of partial sums a chunk; pairwise_row has the chunks of pairwise */
int fgd_robust_pairwise_row(const fgd_rows *x, int64_t row, double *partial, char *bad, fgd_job *job);
int64_t fgd_robust_point_chunks(int64_t d);
int fgd_robust_sqdist_to(const fgd_rows *x, const fgd_rows *point, double *partial, char *bad, fgd_job *job);
void fgd_robust_point_sum(int64_t n, int64_t chunks, const double *partial, const char *bad, double *sums);
/* csrc/geometric.c: 0 converged, 1 max_iter, -1 no memory */
int fgd_robust_geometric_median(int64_t n, const double *sqdist, const double *share, double smoothing, double tol,
                                int64_t max_iter, double *weights, double *objective, int64_t *iterations);
int64_t fgd_robust_column_chunks(int64_t d);
int fgd_robust_combine(const fgd_rows *x, const double *weights, double divisor, const fgd_rows *out, fgd_job *job);
int fgd_robust_scale(const fgd_rows *x, const double *factor, const fgd_rows *out, fgd_job *job);
int fgd_robust_rank_mean(const fgd_rows *x, int64_t first, int64_t window, int64_t moves, double divisor, int64_t tolerated,
                         const fgd_rows *out, fgd_job *job);

/* ---- robust: logic on n x n distances (csrc/selection.c) */
int fgd_robust_bulyan_select(const double *sqdist, const int64_t *order, int64_t n, int64_t f, const char *bad, char *selected);

/* ---- hashes (csrc/hashing_body.h): simhash is `fold`, then `planes`, for every group of planes; rows [first, first + count) */
int64_t fgd_hashing_fold_chunks(int64_t count, int64_t tiles);
int fgd_hashing_fold(const fgd_rows *x, uint64_t seed, uint32_t step, const uint32_t *turn, int64_t first, int64_t count,
                     int64_t tiles, const double *scale, double *sums, char *unsafe, fgd_job *job);
int64_t fgd_hashing_planes_chunks(int64_t count, int64_t bits);
void fgd_hashing_planes(const double *sums, int64_t count, int64_t width, uint64_t seed, int64_t plane, int64_t bits,
                        uint8_t *hashes, int64_t stride, fgd_job *job);
int64_t fgd_hashing_hamming_chunks(int64_t n, int64_t m);
void fgd_hashing_hamming(const uint8_t *a, const uint8_t *b, int64_t n, int64_t m, int64_t width, int64_t *distances,
                         fgd_job *job);
int64_t fgd_hashing_columns_chunks(int64_t n, int64_t columns);
int fgd_hashing_columns(const fgd_rows *x, int64_t layer, int64_t length, int64_t columns, int64_t first, int64_t bits,
                        uint64_t seed, uint8_t *flags, int64_t stride, char *bad, fgd_job *job);

/* cdef end */

#endif
