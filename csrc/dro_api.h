/* What Python calls of the room `dro`; conventions: fastgd.h. */
#ifndef FASTGD_DRO_API_H
#define FASTGD_DRO_API_H

#include "fastgd.h"

/* cdef begin */

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
int64_t fgd_chi2_sample_one(fgd_chi2 *w);
int64_t fgd_chi2_update_one(fgd_chi2 *w, int64_t index, double loss); /* as fgd_chi2_update */
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
int64_t fgd_kl_sample_one(fgd_kl *w);
int64_t fgd_kl_update_one(fgd_kl *w, int64_t index, double loss); /* as fgd_kl_update */
void fgd_kl_probability(const fgd_kl *w, int64_t count, const int64_t *index, double *out);
double fgd_kl_divergence(const fgd_kl *w);
void fgd_kl_restore(fgd_kl *w); /* `slot` from the rest, onto zeros, and what draws need */

/* ---- dro: uncertainty sets (csrc/dro_sets.c). The caller fills the first part; passes and folds alternate. */
typedef struct {
    const char *z;            /* n losses, or the vector to project */
    double *w;                /* n numbers: the weights in the end, what is left of z before */
    double *part;             /* FGD_SET_PART numbers a block: what a pass found there */
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
    int64_t wanted;           /* .. the quantile's place among all, from above */
    double value;             /* the worst case */
} fgd_set;

int64_t fgd_sets_blocks(int64_t n);
int64_t fgd_sets_tickets(int64_t n);
int64_t fgd_sets_part(void);
void fgd_sets_pass(fgd_set *s, fgd_job *job);
int fgd_sets_fold(fgd_set *s);   /* whether there is another pass */
void fgd_sets_solve(fgd_set *s); /* all passes, by one caller */

/* cdef end */

#endif
