/* The room `robust`: how work is split, and the entry points. The kernels are in robust_body.h. */
#include "robust_api.h"
#include "simd.h"
#include "rows.h" /* its scalar part, compiled for the baseline: the clones share it */

/* ---- splitting: by n and d alone, never by the number of threads */

typedef struct {
    int64_t block;   /* columns packed at a time */
    int64_t columns; /* columns of a chunk, a multiple of block */
    int64_t chunks;
} fgd_split;

/* 32 groups of 16 columns are added up in float before double takes over, fewer where the packed block would not fit in a
 * second-level cache. Partial sums of all chunks stay O(n^2): 32 chunks while they are small, down to 4. */
static fgd_split fgd_pairwise_split(int64_t n, int64_t d)
{
    fgd_split split = {.block = 512};
    while (split.block > 128 && n * split.block > 262144)
        split.block /= 2;
    int64_t blocks = FGD_MAX((d + split.block - 1) / split.block, 1);
    int64_t most = FGD_MAX(FGD_MIN((1 << 20) / (n * n), 32), 4);
    split.columns = (blocks + most - 1) / most * split.block;
    split.chunks = FGD_MAX((d + split.columns - 1) / split.columns, 1);
    if (d < split.block)
        split.block = split.columns = (FGD_MAX(d, 1) + 15) / 16 * 16;
    return split;
}

/* One point against all: a block of the point stays in the first-level cache. */
enum { FGD_POINT_BLOCK = 8192, FGD_POINT_CHUNKS = 64 };

static fgd_split fgd_point_split(int64_t d)
{
    fgd_split split = {.block = FGD_POINT_BLOCK};
    int64_t blocks = (d + split.block - 1) / split.block;
    split.columns = FGD_MAX((blocks + FGD_POINT_CHUNKS - 1) / FGD_POINT_CHUNKS, 1) * split.block;
    split.chunks = FGD_MAX((d + split.columns - 1) / split.columns, 1);
    return split;
}

static int64_t fgd_partial_size(int64_t n)
{
    int64_t panels = (n + 3) / 4;
    return panels * (panels + 1) / 2 * 16;
}

/* Place of the tile of panels i <= j: the upper triangle row by row. */
static int64_t fgd_tile(int64_t panels, int64_t i, int64_t j)
{
    return i * panels - i * (i - 1) / 2 + j - i;
}

/* Coordinate-wise kernels: chunks of columns, cut at the ends of layers. */
enum { FGD_COLUMNS = 8192 };

typedef struct {
    int64_t layer, lo, hi; /* columns [lo, hi) of that layer */
    int64_t offset;        /* the layer's first coordinate in the vector */
    int64_t end;           /* end of the chunk, as a coordinate of the vector */
} fgd_segment; /* zero-initialise */

/* Step to the next segment of the chunk, or of the next chunk that can be had; 0 when all are taken. */
static int fgd_next_segment(const fgd_rows *x, fgd_segment *s, int64_t *next)
{
    int64_t at = s->offset + s->hi; /* coordinates before it are done */
    if (at >= s->end) {
        at = fgd_take(next) * FGD_COLUMNS;
        if (at >= x->d)
            return 0;
        s->end = FGD_MIN(at + FGD_COLUMNS, x->d);
    }
    while (at >= s->offset + x->layer[s->layer].size)
        s->offset += x->layer[s->layer++].size;
    s->lo = at - s->offset;
    s->hi = FGD_MIN(x->layer[s->layer].size, s->end - s->offset);
    return 1;
}

static int fgd_any_double(const fgd_rows *x)
{
    for (int64_t k = 0; k < x->n_layers; k++)
        if (x->layer[k].dtype == 1)
            return 1;
    return 0;
}

/* Results of that many bytes do not stay in the caches until someone reads them. */
enum { FGD_LARGE = 16 << 20 };

static int64_t fgd_row_bytes(const fgd_rows *x)
{
    int64_t bytes = 0;
    for (int64_t k = 0; k < x->n_layers; k++)
        bytes += x->layer[k].size * fgd_itemsize(x->layer[k].dtype);
    return bytes;
}

/* ---- linear combinations: which rows each result needs, for the kernels of combine.h */

enum { COMBINE_ROWS = 32 };
enum { FGD_SOME_WEIGHTS, FGD_UNIT_WEIGHTS, FGD_NO_WEIGHTS };

typedef struct {
    int64_t n, m;
    const double *weights;
    double divisor;
    int large;       /* the results do not stay in the cache */
    int64_t groups;  /* of COMBINE_ROWS rows, one bit each */
    void *sums;      /* m x 512 bytes; the memory of all that follows */
    double *tile;    /* COMBINE_ROWS x 64 */
    int64_t *leader; /* (m) the first result with the same weights */
    uint32_t *rows;  /* (m, groups) the rows with a weight */
    uint32_t *used;  /* (groups) the rows with a weight in any result */
    char *form;      /* (m) what the weights are like */
} fgd_combination;

/* Fill the plan's fields from `groups` on; -1 when there is no memory. */
static int fgd_combination_plan(fgd_combination *w)
{
    int64_t n = w->n, m = w->m, groups = w->groups = (n + COMBINE_ROWS - 1) / COMBINE_ROWS;
    w->sums = fgd_scratch(512 * m + 512 * COMBINE_ROWS + 8 * m + 4 * (m + 1) * groups + m);
    if (!w->sums)
        return -1;
    w->tile = (double *)((char *)w->sums + 512 * m);
    w->leader = (int64_t *)(w->tile + 64 * COMBINE_ROWS);
    w->rows = (uint32_t *)(w->leader + m);
    w->used = w->rows + m * groups;
    w->form = (char *)(w->used + groups);
    memset(w->rows, 0, (size_t)(4 * (m + 1) * groups));
    for (int64_t a = 0; a < m; a++) {
        const double *weights = w->weights + a * n;
        uint32_t *rows = w->rows + a * groups;
        w->form[a] = FGD_NO_WEIGHTS;
        for (int64_t i = 0; i < n; i++) {
            if (weights[i] == 0.0)
                continue;
            rows[i / COMBINE_ROWS] |= (uint32_t)1 << i % COMBINE_ROWS;
            w->used[i / COMBINE_ROWS] |= (uint32_t)1 << i % COMBINE_ROWS;
            if (weights[i] != 1.0)
                w->form[a] = FGD_SOME_WEIGHTS;
            else if (w->form[a] == FGD_NO_WEIGHTS)
                w->form[a] = FGD_UNIT_WEIGHTS;
        }
        w->leader[a] = 0;
        while (w->leader[a] < a && memcmp(w->weights + w->leader[a] * n, weights, (size_t)(8 * n)) != 0)
            w->leader[a]++;
    }
    return 0;
}

#define FGD_BODY "robust_body.h"
#include "isa.h"

/* ---- entry points */

void fgd_rows_stacked(fgd_rows *x, const char *base, int64_t n, int64_t size, int32_t dtype)
{
    x->n = n;
    x->d = size;
    x->n_layers = 1;
    x->layer = &x->own;
    x->own = (fgd_layer){base, size * fgd_itemsize(dtype), NULL, size, dtype};
}

int64_t fgd_robust_pairwise_chunks(int64_t n, int64_t d)
{
    return fgd_pairwise_split(n, d).chunks;
}

int64_t fgd_robust_pairwise_partial(int64_t n)
{
    return fgd_partial_size(n);
}

int fgd_robust_pairwise(const fgd_rows *x, const char *wanted, int wide, double *partial, char *bad, fgd_job *job)
{
    wide |= fgd_any_double(x);
    return FGD_CALL(pairwise)(x, fgd_pairwise_split(x->n, x->d), wanted, wide, fgd_partial_size(x->n), partial, bad, job);
}

void fgd_robust_pairwise_sum(int64_t n, int64_t chunks, const double *partial, const char *wanted, const char *bad,
                             double *sqdist)
{
    int64_t size = fgd_partial_size(n), panels = (n + 3) / 4, tile = 0;
    for (int64_t i = 0; i < panels; i++)
        for (int64_t j = i; j < panels; j++, tile++)
            for (int64_t pair = 0; pair < 16; pair++) {
                int64_t u = 4 * i + pair / 4, v = 4 * j + pair % 4;
                if (u >= v || v >= n)
                    continue;
                double sum = wanted && !wanted[tile] ? sqdist[u * n + v] : 0.0;
                for (int64_t chunk = 0; chunk < chunks && (!wanted || wanted[tile]); chunk++)
                    sum += partial[chunk * size + 16 * tile + pair];
                sqdist[u * n + v] = sqdist[v * n + u] = bad[u] || bad[v] ? INFINITY : sum;
            }
    for (int64_t i = 0; i < n; i++)
        sqdist[i * n + i] = 0.0;
}

int fgd_robust_pairwise_sample(const fgd_rows *x, int64_t strips, int64_t width, double *partial, char *bad)
{
    memset(partial, 0, (size_t)fgd_partial_size(x->n) * sizeof *partial);
    return FGD_CALL(pairwise_sample)(x, strips, width, partial, bad);
}

int fgd_robust_gram(const fgd_rows *x, int64_t centre, double *partial, fgd_job *job)
{
    return FGD_CALL(gram)(x, centre, fgd_pairwise_split(x->n, x->d), fgd_partial_size(x->n) + x->n, partial, job);
}

/* The bound 48 u (a_i + a_j) on the error of D_ij (gram.h) is at most 192 u D_ij = 1.15e-5 D_ij where a_i + a_j <= 4 D_ij. Where
 * that fails, where float overflowed (NaN fails as well) or its subnormals may have, the tile is `wanted`: to be computed from
 * direct differences. */
int64_t fgd_robust_gram_sum(int64_t n, int64_t chunks, const double *partial, double *sqdist, char *wanted)
{
    int64_t tiles = fgd_partial_size(n) / 16, size = 16 * tiles + n, panels = (n + 3) / 4, count = 0, tile = 0;
    double *norm = sqdist; /* on the diagonal, for the time being */
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            sum += partial[chunk * size + 16 * tiles + i];
        norm[i * (n + 1)] = sum;
    }
    for (int64_t i = 0; i < panels; i++)
        for (int64_t j = i; j < panels; j++, tile++) {
            wanted[tile] = 0;
            for (int64_t pair = 0; pair < 16; pair++) {
                int64_t u = 4 * i + pair / 4, v = 4 * j + pair % 4;
                if (u >= v || v >= n)
                    continue;
                double product = 0.0, norms = norm[u * (n + 1)] + norm[v * (n + 1)];
                for (int64_t chunk = 0; chunk < chunks; chunk++)
                    product += partial[chunk * size + 16 * tile + pair];
                double sum = sqdist[u * n + v] = sqdist[v * n + u] = norms - 2.0 * product;
                wanted[tile] |= !(norms <= 4.0 * sum && sum <= 0x1p100 && norms >= 0x1p-80);
            }
            count += wanted[tile];
        }
    for (int64_t i = 0; i < n; i++)
        sqdist[i * n + i] = 0.0;
    return count;
}

int fgd_robust_pairwise_row(const fgd_rows *x, int64_t row, double *partial, char *bad, fgd_job *job)
{
    return FGD_CALL(pairwise_row)(x, row, fgd_pairwise_split(x->n, x->d), partial, bad, job);
}

int64_t fgd_robust_point_chunks(int64_t d)
{
    return fgd_point_split(d).chunks;
}

int fgd_robust_sqdist_to(const fgd_rows *x, const fgd_rows *point, double *partial, char *bad, fgd_job *job)
{
    return FGD_CALL(sqdist_to)(x, point, fgd_point_split(x->d), partial, bad, job);
}

/* sums[i] = the n partial sums of all chunks, +inf for a bad row */
void fgd_robust_point_sum(int64_t n, int64_t chunks, const double *partial, const char *bad, double *sums)
{
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            sum += partial[chunk * n + i];
        sums[i] = bad[i] ? INFINITY : sum;
    }
}

int fgd_robust_krum_scores(const double *sqdist, int64_t n, int64_t k, double *scores)
{
    /* Column i of the symmetric matrix holds the distances of vector i and, as its smallest value, the 0 of the diagonal:
     * the score is the sum of ranks 1 .. k of column i, and columns are what the network sorts. */
    fgd_rows x, out;
    fgd_job job = {0, 0};
    fgd_rows_stacked(&x, (const char *)sqdist, n, n, 1);
    fgd_rows_stacked(&out, (const char *)scores, 1, n, 1);
    return fgd_robust_rank_mean(&x, 1, k, 0, 1.0, n, &out, &job);
}

/* Scores and choice from x itself, with distances from direct differences, taken as they are. */
int fgd_robust_select(const fgd_rows *x, int64_t k, int64_t m, double *scores, char *bad, int64_t *selected)
{
    int64_t n = x->n, chunks = fgd_pairwise_split(n, x->d).chunks, doubtful;
    double *sqdist = fgd_scratch(8 * (n * n + chunks * fgd_partial_size(n)) + n), *partial = sqdist + n * n;
    fgd_job job = {0, 0};
    int failed = !sqdist || fgd_robust_pairwise(x, NULL, 0, partial, bad, &job);
    if (!failed) {
        fgd_robust_pairwise_sum(n, chunks, partial, NULL, bad, sqdist);
        failed = fgd_robust_choose(sqdist, n, k, m, 0.0, scores, bad, selected,
                                   (char *)(partial + chunks * fgd_partial_size(n)), &doubtful);
    }
    free(sqdist);
    return failed;
}

int64_t fgd_robust_column_chunks(int64_t d)
{
    return (d + FGD_COLUMNS - 1) / FGD_COLUMNS;
}

int fgd_robust_combine(const fgd_rows *x, const double *weights, double divisor, const fgd_rows *out, fgd_job *job)
{
    return FGD_CALL(combine)(x, weights, divisor, out, job);
}

int fgd_robust_scale(const fgd_rows *x, const double *factor, const fgd_rows *out, fgd_job *job)
{
    return FGD_CALL(scale)(x, factor, out, job);
}

int fgd_robust_rank_mean(const fgd_rows *x, int64_t first, int64_t window, int64_t moves, double divisor, int64_t tolerated,
                         const fgd_rows *out, fgd_job *job)
{
    return FGD_CALL(rank_mean)(x, first, window, moves, divisor, tolerated, out, job);
}
