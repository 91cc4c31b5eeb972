/* What Python calls of the room `sinkhorn`; conventions: fastgd.h. */
#ifndef FASTGD_SINKHORN_API_H
#define FASTGD_SINKHORN_API_H

#include "fastgd.h"

/* cdef begin */

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

    int64_t *row;             /* the `rows` rows with a_i > 0, ascending: all that passes look at */
    int64_t rows;
    void *shifts;             /* width numbers: g in base 2, -infinity where nothing is sent */
    double *part;             /* 2 width + 8 numbers a chunk */
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

/* Of a problem with n, m, a and b: how many numbers the arrays that are not the caller's take; and their places in so many
 * zeros, with rows chosen and potentials 0 or -infinity. What Python reads lies from the returned index on: g and column of width
 * numbers, f, sums, spent and log_a of n, log_b of m. */
int64_t fgd_sinkhorn_memory(int64_t n, int64_t m, int scaled);
int64_t fgd_sinkhorn_place(fgd_transport *t, double *memory, int scaled);
int64_t fgd_sinkhorn_chunks(const fgd_transport *t);
void fgd_sinkhorn_begin(fgd_transport *t, int what); /* before a pass: `shifts` from g */
int fgd_sinkhorn_pass(fgd_transport *t, int what, fgd_job *job);
int fgd_sinkhorn_first(fgd_transport *t, int64_t count, double relax); /* what pass `count` sweeps begin with */
/* After a pass: what to pass next, or -1. *error < 0: this sweep does not count */
int fgd_sinkhorn_fold(fgd_transport *t, int what, double tol, double *error);
/* Sweeps by one caller: how many, or -1 */
int64_t fgd_sinkhorn_sweep(fgd_transport *t, int64_t count, double tol, double relax, double *errors);

/* ---- sinkhorn: Newton's method on the semi-dual (csrc/sinkhorn_newton*.c) */
typedef struct {
    double *value;            /* entries of some rows, each row filled up with zeros to a multiple of 8 .. */
    int32_t *column;          /* .. whose columns lie beyond the last */
    int64_t room, entries;    /* both with the zeros */
    int64_t rows, found;      /* rows, and their entries without the zeros */
} fgd_kept;

typedef struct {
    const fgd_transport *t;   /* the potentials held, in float64 */
    int64_t chunks;           /* fgd_semidual_chunks(): chunk k of the rows with mass .. */
    fgd_kept *kept;           /* .. keeps these entries of the trial, after a solve in Jacobi's scaling */
    int32_t *size;            /* of each of t->rows rows, with the zeros */
    fgd_kept turned;          /* the transposed matrix .. */
    int32_t *turned_size;     /* .. t->width numbers */
    int64_t *next_place;      /* room for as many */
    double *part;             /* t->width + 8 numbers a chunk */
    double *f, *g, *next;     /* the trial: f, and t->width numbers each of g and column sums */
    double *c;                /* t->width column sums of the potentials held */
    double *x;                /* t->width + 8 numbers: the direction */
    double *work;             /* 4 (t->width + 8) + t->rows + 16 numbers */
    double drop;              /* of each row's mass, what may be left out */
    double step, error;       /* the trial: its step along x, |c - b|_1 .. */
    double change, noise;     /* .. how much F changes, and how uncertain that is by rounding */
    int64_t entries;          /* .. how many are kept */
    double tol;               /* the residual to end at, relative to the right side */
    int64_t limit, count;     /* conjugate gradients */
    double slope, longest;    /* F's slope along x, and the largest of |x| */
} fgd_semidual;

int64_t fgd_semidual_chunks(const fgd_transport *t);
void fgd_semidual_begin(fgd_semidual *s, double step);
int fgd_semidual_pass(fgd_semidual *s, fgd_job *job);
void fgd_semidual_fold(fgd_semidual *s);
int fgd_semidual_evaluate(fgd_semidual *s, double step); /* all three, by one caller */
void fgd_semidual_accept(fgd_semidual *s);
int fgd_semidual_solve(fgd_semidual *s, double shift);
void fgd_semidual_update(fgd_semidual *s); /* the direction of Sinkhorn's update of the columns */

/* Sinkhorn-Newton-Sparse: ([I W; W' I] + v v') y = r by conjugate gradients, W in CSR, of
 * vectors of n + m numbers. Returns the iterations, -1 where there is no memory. */
int64_t fgd_sns_solve(int64_t n, int64_t m, const int64_t *start, const int32_t *column, const double *value, const double *r,
                        const double *v, double tol, int64_t limit, double *y);
void fgd_semidual_free(fgd_semidual *s);

/* ---- sinkhorn: semi-discrete transport (csrc/sinkhorn_semidiscrete_body.h). Arrays of `width` numbers: m padded to a multiple
 * of 8, with y = infinity, log_w = -infinity and zeros elsewhere */
typedef struct {
    const double *y;          /* atoms, (d, width) */
    const double *w, *log_w;  /* their weights */
    double *g;                /* potentials, in units of the cost */
    double factor;            /* cost = factor |x - y|^2 */
    int64_t m, d, width;
} fgd_atoms;

typedef struct {
    const double *reg, *step, *bound, *share; /* of each step: regularisation, length, largest |g|, weight in the average */
    double *average;          /* width numbers */
    double *work;             /* 2 width numbers */
} fgd_descent;

/* value: for each step the semi-dual objective at its draws, before it */
void fgd_sinkhorn_descend(const fgd_atoms *atoms, const double *x, int64_t steps, int64_t batch, const fgd_descent *by,
                          double *value);
void fgd_sinkhorn_assign(const fgd_atoms *atoms, const double *x, int64_t lo, int64_t hi, int64_t *index, double *least);

/* cdef end */

#endif
