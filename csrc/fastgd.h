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

/* ---- compress: what all codecs share (csrc/compress.c) */
uint32_t fgd_crc32_payload(const uint8_t *payload, int64_t bytes); /* as zlib's, of all but the header's last four bytes */

typedef struct {
    const char *data;         /* n floating-point numbers */
    int32_t dtype;            /* as in fgd_layer, not float64 */
    int64_t n;
} fgd_vector;

/* How a codec's input p is made from the vector x and the memory, and what becomes of the memory (csrc/compress.h). */
typedef enum { FGD_PLAIN = 0, FGD_FEEDBACK = 1, FGD_DIFFERENCE = 2 } fgd_mode;

typedef struct {
    int32_t codec, option;    /* as in the header of the payload (docs/wire.md) */
    int64_t n, a, b;
    const uint8_t *body;
} fgd_payload;

typedef struct {
    fgd_job job;
    float most;               /* max |p_i|; not finite where one is not. Zero-initialise */
} fgd_scan;

int64_t fgd_compress_tickets(int64_t n);
void fgd_compress_largest(const fgd_vector *x, const float *memory, fgd_mode mode, fgd_scan *scan);
void fgd_compress_identity(const fgd_vector *x, float *memory, fgd_mode mode, uint8_t *body, fgd_job *job);
int fgd_compress_check(const fgd_payload *q);
/* out = c of one payload, or with `add` out += scale c of `count` payloads in their order */
void fgd_compress_decode(const fgd_payload *q, int64_t count, float scale, int add, float *out, fgd_job *job);
void fgd_compress_decode_range(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);

/* ---- compress: signs */
int64_t fgd_compress_signs_tickets(int64_t n);
void fgd_compress_signs(const fgd_vector *x, float *memory, fgd_mode mode, float upper, float lower, uint8_t *bits, double *sums,
                        int sides, fgd_job *job);
void fgd_compress_scales(const double *sums, int64_t n, int sides, uint8_t *body); /* the body's first one or two floats */
void fgd_compress_add_bits(const uint8_t *bits, int64_t n, float upper, float lower, float *out, fgd_job *job);
int64_t fgd_compress_vote_tickets(int64_t n);
void fgd_compress_vote(const uint8_t *const *bits, int64_t voters, int64_t n, uint8_t *out, fgd_job *job);

/* ---- compress: sparse */
typedef struct {
    fgd_vector x;             /* what p is made of */
    float *memory;
    fgd_mode mode, after;     /* how p is made now (PLAIN from the memory, once it holds p), and what becomes of the memory */
    int32_t bits;             /* 32 or 8 a value */
    int64_t k, capacity;      /* values to keep; candidates there is room for */
    uint32_t *index, *value;  /* candidates: coordinate and bits of p, chunk by chunk, the chunks in any order */
    int64_t *chunk;           /* 4 a chunk: first candidate, candidates, first kept one, how many equal to `key` are kept */
    int64_t used;             /* candidates so far */
    uint32_t key;             /* candidates have at least this magnitude, as bits; once selected, the k-th largest one */
    uint32_t span, shift;     /* `span` magnitudes from `key` on are counted, in bins of 2^shift */
    int64_t above;            /* magnitudes above those that are counted */
    int64_t *count;           /* FGD_SPARSE_BINS bins */
    uint8_t *body;
    float *kept;              /* in eight bits: the k values */
} fgd_topk;

typedef struct {
    uint64_t seed;
    uint32_t step;
    int32_t scaled;
    int64_t k;
    uint8_t *values;
} fgd_randk;

int64_t fgd_sparse_chunks(int64_t n);
int64_t fgd_sparse_bins(void);
void fgd_sparse_add(const fgd_vector *x, float *memory, fgd_job *job); /* memory += x */
int fgd_topk_sample(fgd_topk *t);      /* 0 and a guess at `key`, or -1: no memory */
int fgd_topk_scan(fgd_topk *t, fgd_job *job);
int fgd_topk_select(fgd_topk *t);      /* 0, 1: too few candidates, 2: too many, -1: no memory */
int fgd_topk_histogram(fgd_topk *t, fgd_job *job);
int64_t fgd_topk_narrow(fgd_topk *t);  /* magnitudes from `key` on */
int fgd_topk_tally(fgd_topk *t, fgd_job *job);
void fgd_topk_place(fgd_topk *t);
int fgd_topk_emit(fgd_topk *t, fgd_job *job);
int64_t fgd_topk_tickets(int64_t k);
void fgd_topk_quantise(fgd_topk *t, fgd_job *job);
void fgd_threshold_scan(const fgd_vector *x, float *memory, fgd_mode mode, uint32_t key, uint8_t *body, int64_t *count,
                        fgd_job *job);
int64_t fgd_threshold_pack(int64_t n, uint8_t *body, const int64_t *count); /* values kept */
int64_t fgd_randk_tickets(int64_t k);
void fgd_randk_gather(const fgd_randk *r, const fgd_vector *x, float *memory, fgd_mode mode, fgd_job *job);

/* ---- compress: levels */
typedef struct {
    int32_t kind;             /* 0 nearest, 1 stochastic, 2 e4m3, 3 e5m2, 4 TernGrad, 5 Natural */
    int32_t width;            /* bits of a code */
    int32_t offset;           /* what a code adds to the number it stands for */
    int32_t l2;               /* a bucket is measured by its norm */
    int64_t bucket;
    float levels;             /* steps that a bucket's measure has */
    float largest;            /* TernGrad: the vector's largest magnitude */
    uint64_t seed;            /* of the rounding */
    uint32_t step;
} fgd_levels;

int64_t fgd_compress_levels_tickets(const fgd_levels *how, int64_t n);
void fgd_compress_levels(const fgd_vector *x, float *memory, fgd_mode mode, const fgd_levels *how, uint8_t *body, fgd_job *job);

/* ---- compress: rotation */
int64_t fgd_compress_drive_tickets(int64_t n);
void fgd_compress_drive(const fgd_vector *x, float *memory, fgd_mode mode, int bits, int unbiased, uint64_t seed, uint32_t step,
                        uint8_t *body, fgd_job *job);

/* ---- compress: sketches */
int64_t fgd_compress_sketch_tickets(int64_t n);
int64_t fgd_compress_sketch_groups(int64_t rows, int64_t together);
int fgd_compress_sketch_sums(const fgd_vector *x, const float *memory, fgd_mode mode, uint64_t seed, uint32_t step, int64_t rows,
                             int64_t columns, double per_unit, int64_t together, int64_t segments, int64_t *sums, fgd_job *job);
int64_t fgd_compress_sketch_cells(int64_t cells);
void fgd_compress_sketch_table(const int64_t *sums, int64_t cells, double unit, uint8_t *table, fgd_job *job);
void fgd_compress_sketch_memory(const fgd_vector *x, float *memory, fgd_mode mode, int64_t rows, int64_t columns,
                                const uint8_t *body, fgd_job *job);

/* ---- compress: lowrank. A step is start, left (once more with `unit` where the peak asks for it), orthogonalise, right,
 * finish. */
typedef struct {
    const fgd_vector *x;      /* the matrix, row by row */
    float *memory;            /* or NULL */
    fgd_mode mode;
    int64_t rows, columns, rank;
    uint64_t seed;            /* what columns are drawn from */
    uint32_t step;
    int32_t fresh;            /* FEEDBACK: x is still to be added to the memory */
    float unit, most;         /* a power of two that M is multiplied by; fgd_lowrank_most(rank) */
    uint32_t peak;            /* the largest magnitude of M unit, its bits */
    int64_t stride;           /* of left: rows, rounded up to a multiple of 8 */
    double *left;             /* rank lines of `stride` */
    int64_t panel;            /* columns of a ticket of the second pass */
    int64_t pitch;            /* of right: at least `columns` */
    float *right;             /* rank lines of `pitch` */
    uint8_t *body;            /* of the payload */
} fgd_lowrank;

float fgd_lowrank_most(int64_t rank);
int64_t fgd_lowrank_row_tickets(const fgd_lowrank *w);
int64_t fgd_lowrank_panel(const fgd_lowrank *w, int64_t threads);
void fgd_lowrank_start(fgd_lowrank *w, const float *warm);
void fgd_lowrank_left(fgd_lowrank *w, fgd_job *job);
void fgd_lowrank_orthogonalise(const fgd_lowrank *w);
int fgd_lowrank_right(const fgd_lowrank *w, fgd_job *job);
void fgd_lowrank_finish(const fgd_lowrank *w, fgd_job *job);

/* ---- dro: sums in a tree (csrc/dro_tree.h) */
typedef struct {
    double least, most;       /* the smallest positive weight (Inf: there is none) and the largest */
    int64_t at_least, at_most; /* how many leaves have it */
    int32_t stale;            /* the last of them has changed: only all leaves can tell */
} fgd_extremes;

typedef struct {
    int64_t n, capacity;      /* leaves in use; leaves there is room for, those from n on are 0 */
    int64_t levels;
    int64_t first[12];        /* where level l begins in `data`, 0: the leaves; first[levels]: its end (2^31 leaves: 11) */
    double *data;             /* on a boundary of 64 bytes */
    fgd_extremes *extremes;   /* kept by changes; NULL: they are not */
} fgd_tree;

int64_t fgd_tree_layout(fgd_tree *t, int64_t n, int64_t capacity); /* not the pointers; returns the doubles of `data` */
/* What is wrong: nothing, an index, a weight, an infinite total, no memory. Where something is, the tree is as it was. */
enum { FGD_TREE_FINE = 0, FGD_TREE_INDEX = 1, FGD_TREE_WEIGHT = 2, FGD_TREE_TOTAL = 3, FGD_TREE_MEMORY = 4 };
int fgd_tree_fill(fgd_tree *t, int64_t from, int64_t count, const double *weight); /* leaves from .. are the last; n grows */
int fgd_tree_update(const fgd_tree *t, int64_t count, const int64_t *index, const double *weight);
int fgd_tree_update_one(const fgd_tree *t, int64_t index, double weight);
int fgd_tree_weights(const fgd_tree *t, int64_t count, const int64_t *index, double *out);
void fgd_tree_extremes(const fgd_tree *t);                      /* makes t->extremes anew where they are stale */
double fgd_tree_sum(const fgd_tree *t, int64_t lo, int64_t hi); /* of leaves lo .. hi - 1; of all: the total */
int64_t fgd_tree_find_one(const fgd_tree *t, double mass);      /* -1: the mass is not in [0, total) */
int64_t fgd_tree_find(const fgd_tree *t, int64_t count, const double *mass, int64_t *out); /* how many are not; none: found */
/* draws number `drawn` .. of the seed; 0, or -1 where the total is 0 */
enum { FGD_TREE_IID = 0, FGD_TREE_STRATIFIED = 1, FGD_TREE_SYSTEMATIC = 2 };
int64_t fgd_tree_sample_one(const fgd_tree *t, uint64_t seed, uint64_t drawn);
int fgd_tree_sample(const fgd_tree *t, uint64_t seed, uint64_t drawn, int method, int64_t count, int64_t *out);
/* without replacement: how many there were to draw, -1: no memory */
int64_t fgd_tree_sample_distinct(const fgd_tree *t, uint64_t seed, uint64_t drawn, int64_t count, int64_t *out);

/* ---- dro: the sampler's projections (csrc/dro_chi2.c, csrc/dro_kl.c). An update returns 0, 8 * position + reason (1 index,
 * 2 loss, 3 probability 0, 4 overflow; nothing has changed then), or -1: no memory */
typedef struct {
    int64_t n;
    double floor, step_size;  /* delta: p_i >= delta / n; of the mirror ascent */
    uint64_t seed, drawn;     /* draws so far: the number of the next one */
    int32_t fixed;            /* p stays uniform */
} fgd_player;

typedef struct {
    fgd_player own;
    double excess;            /* the ball: n sum q_i^2 <= 1 + excess */
    double v, a, s;           /* q_i = v + a (z_i - s) for active elements, v on the floor */
    double sum, square;       /* of z over the active elements */
    int64_t active, age;      /* how many; losses since `sum` and `square` were made anew */
    fgd_tree tree;            /* its leaves are z, 0 on the floor */
    int32_t *count;           /* active leaves below each node of tree level 1, 2, .. */
    double *key;              /* a heap, smallest z first: 8 children a node; z, and */
    int32_t *item, *slot;     /* whose it is; 1 + where element i is in the heap, 0 on the floor */
} fgd_chi2;

int64_t fgd_chi2_layout(fgd_chi2 *w, int64_t n); /* sets `tree` but for `data`; returns the doubles it takes */
int64_t fgd_chi2_update(fgd_chi2 *w, int64_t count, const int64_t *index, const double *loss);
void fgd_chi2_sample(fgd_chi2 *w, int64_t count, int64_t *out);
void fgd_chi2_probability(const fgd_chi2 *w, int64_t count, const int64_t *index, double *out); /* index NULL: 0, 1, .. */
double fgd_chi2_divergence(const fgd_chi2 *w);
void fgd_chi2_restore(fgd_chi2 *w, int64_t active, const int32_t *item, const double *key); /* onto zeroed arrays */

typedef struct {
    fgd_player own;
    double radius;
    double log_v, a, s;       /* log p_i = log_v + a (z_i - s) for active elements, log_v on the floor */
    int64_t active;
    double *z;                /* 0 on the floor */
    int32_t *item, *slot;     /* the active elements bin by bin; 1 + where element i is there, 0 on the floor */
    double width;             /* bin b: width (base + b) <= z < width (base + b + 1), bin 0 all below too; none beyond `top` */
    int64_t base, top;
    int64_t heaped;           /* this bin, the lowest one in use, is a heap, smallest z first; -1: none is */
    int64_t start[514];       /* bin b: slots start[b] .. start[b + 1] - 1 */
    int64_t taken[513];       /* elements taken out of a bin since its moments were made anew */
    double moment[513][16];   /* of a bin: sum of tau^j, z = width (base + b + tau). Not kept for bin 0 where base > 0 */
    double share[514];        /* for draws: v n, then that plus bounds on the bins' weights, one after the other */
    double ceiling[513];      /* for draws: the bound on an element's weight, of each bin */
} fgd_kl;

void fgd_kl_start(fgd_kl *w); /* p is uniform; the arrays are zeroed */
int64_t fgd_kl_update(fgd_kl *w, int64_t count, const int64_t *index, const double *loss);
void fgd_kl_sample(fgd_kl *w, int64_t count, int64_t *out);
void fgd_kl_probability(const fgd_kl *w, int64_t count, const int64_t *index, double *out);
double fgd_kl_divergence(const fgd_kl *w);
void fgd_kl_restore(fgd_kl *w); /* `slot` from the rest, onto zeros, and what draws need */

/* ---- dro: uncertainty sets (csrc/dro_sets.c). The caller fills the first part; passes and folds alternate. */
typedef struct {
    const char *z;            /* n losses, or the vector to project */
    double *w;                /* n numbers: the weights in the end, what is left of z before */
    double *part;             /* FGD_SET_PART numbers a block: what a pass found there */
    int64_t *bins;            /* quantile: fgd_sets_bins() of them */
    int64_t n;
    int32_t dtype;            /* as in fgd_layer, float32 or float64 */
    int32_t kind;             /* 0 linear, 1 tilted, 2 capped, 3 quantile */
    int32_t logs;             /* tilted: by the logarithms of z, by their whole size at most */
    double radius;            /* of the ball; infinite: there is none */
    double unit;              /* linear: p = (z - theta)_+ / (n unit); tilted, capped: the temperature; 0: the ball decides */
    double floor;             /* p >= floor / n */
    double alpha;             /* capped, quantile: p <= 1 / (alpha n) */

    int32_t phase;            /* what the next pass does */
    int32_t bad;              /* 1: z has a NaN or an Inf; 2: a logarithm of a number not above 0 */
    int32_t stored, store;    /* w holds what is left of z; the pass puts it there */
    int32_t references;       /* changes of the reference so far */
    int32_t tries;            /* folds of the solver so far */
    int32_t e;                /* y = (z - c) 2^-e, as (z head - centre) scale */
    double c, head, centre, scale;
    int32_t span;             /* the same from the largest z, in a unit as large as all differences */
    double span_head, span_centre, span_scale;
    double high, low, top;    /* the largest and smallest z (or logarithm), and the largest y */
    double ties;              /* elements that equal the largest */
    double cut;               /* linear: theta >= cut, in y; tilted, capped: where x = slope y changes sides */
    double slope, from;       /* x = slope y; exponentials are those of x - from */
    double slow, fast;        /* the slope lies between these */
    double base, mean, gain;  /* the weights: floor / n + (base + (y - mean) gain)_+ */
    double factor;            /* .. max(floor / n, factor exp(min(x - from, 0))) */
    double above, equal, below; /* .. by the side of c */
    double least, most;       /* quantile: what is left lies between these */
    int64_t first, shift, wanted; /* .. its bins, and the quantile's place in them, from above */
    double over;              /* .. how many lie above them */
    double value;             /* the worst case */
} fgd_set;

int64_t fgd_sets_blocks(int64_t n);
int64_t fgd_sets_tickets(int64_t n);
int64_t fgd_sets_part(void);
int64_t fgd_sets_bins(void);
void fgd_sets_pass(fgd_set *s, fgd_job *job);
int fgd_sets_fold(fgd_set *s);   /* whether there is another pass */
void fgd_sets_solve(fgd_set *s); /* all passes, by one caller */

/* ---- sinkhorn: one transport problem (csrc/sinkhorn.h). P_ij = exp(f_i + g_j - scale C_ij), potentials in units of the
 * regularisation; f_i = -infinity where a_i = 0, +infinity where row i can send nothing at all (then P_i = 0), g likewise */
typedef struct {
    const void *cost;         /* stored: C, (n, m) in C order */
    const double *x, *y;      /* points: (n, d), and transposed with rows of `width`, +infinity from m on */
    int64_t n, m, d;
    int64_t width;            /* m rounded up to 16 */
    int32_t kind;             /* C: 0 stored float32, 1 stored float64, 2 squared distances, 3 distances */
    int32_t single;           /* sweeps in float32, from: */
    const float *cost_single, *x_single, *y_single;
    double scale;
    double tau_a, tau_b;      /* rho / (rho + reg) of penalised marginals, 1 of fixed ones */
    double relax;             /* what part of its step a potential moves in a sweep */
    const double *a, *b, *log_a, *log_b;
    double *f, *g;

    const int64_t *row;       /* the `rows` rows with a_i > 0, ascending: all that passes look at */
    int64_t rows;
    void *shifts;             /* width numbers: g in base 2, -infinity where nothing is sent */
    double *part;             /* fgd_sinkhorn_part() numbers a chunk */
    double *column;           /* width numbers: sums over columns */
    float *plan;              /* scaled sweeps: P at base_f, base_g, (rows, width), with its exact sums; NULL: no such sweeps */
    double *base_f, *base_g, *base_rows, *base_columns, *held; /* held: f before the sweep */
    double flush;             /* .. its entries below this are 0 there */
    int32_t absorbed;         /* .. whether it holds a plan of this regularisation */
    int32_t steady;           /* how many sweeps of one sort, exact or scaled, went well */
    int64_t left;             /* sweeps left in this call */
    double before;            /* the error before this sweep */
    double *sums, *spent;     /* n numbers each: sums over rows of P and of C P; what else comes by rows */
    const double *vector;     /* what to multiply P with */
    double *values;           /* entries of P .. */
    int64_t *index, *start;   /* .. their columns, and where rows begin, or how many they have */
    double threshold;         /* .. those above it */
} fgd_transport;

int64_t fgd_sinkhorn_chunks(const fgd_transport *t);
int64_t fgd_sinkhorn_part(const fgd_transport *t);
void fgd_sinkhorn_begin(fgd_transport *t, int what); /* before a pass: `shifts` from g */
int fgd_sinkhorn_pass(fgd_transport *t, int what, fgd_job *job);
int fgd_sinkhorn_first(fgd_transport *t, int64_t count, double relax); /* what pass `count` sweeps begin with */
/* After a pass: what to pass next, or -1. *error < 0: this sweep does not count */
int fgd_sinkhorn_fold(fgd_transport *t, int what, double tol, double *error);
/* Sweeps by one caller: how many, or -1 */
int64_t fgd_sinkhorn_sweep(fgd_transport *t, int64_t count, double tol, double relax, double *errors);

/* cdef end */

/* ---- decoding, for compress.c: fgd_check_<codec> is 0 or why the body is none of an encoder's (1 value, 2 index, 3 code, 4
 * padding); fgd_add_<codec>, for lo <= i < hi, multiples of 4096 or n: add ? out_i += fl(scale c_i) : out_i = c_i */
int fgd_check_sign(const fgd_payload *q);
int fgd_check_onebit(const fgd_payload *q);
void fgd_add_sign(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_onebit(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
int fgd_check_topk(const fgd_payload *q);
int fgd_check_threshold(const fgd_payload *q);
int fgd_check_randk(const fgd_payload *q);
void fgd_add_topk(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_threshold(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_randk(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
int fgd_check_qsgd(const fgd_payload *q);
int fgd_check_int8(const fgd_payload *q);
int fgd_check_fp8(const fgd_payload *q);
int fgd_check_terngrad(const fgd_payload *q);
int fgd_check_natural(const fgd_payload *q);
void fgd_add_qsgd(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_int8(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_fp8(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_terngrad(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
void fgd_add_natural(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
int fgd_check_drive(const fgd_payload *q);
void fgd_add_drive(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
int fgd_check_countsketch(const fgd_payload *q);
void fgd_add_countsketch(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
int fgd_check_powersgd(const fgd_payload *q);
void fgd_add_powersgd(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out);
#endif
