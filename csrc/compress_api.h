/* What Python calls of the room `compress`; conventions: fastgd.h. */
#ifndef FASTGD_COMPRESS_API_H
#define FASTGD_COMPRESS_API_H

#include "fastgd.h"

/* cdef begin */

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
    uint32_t middle, upper;   /* about as large, and a little larger */
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
int fgd_topk_sample(fgd_topk *t);      /* 0 and guesses at `key`, `middle`, `upper`, or -1: no memory */
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
