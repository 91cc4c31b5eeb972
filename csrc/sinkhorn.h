/* Costs of a transport problem, for the body files of its kernels (isa.h): vectors of WIDTH doubles, see doubles.h and exp.h.
 *
 * FN(costs_d)(t, kind, i, j) are the costs C_ij .. of row i from column j on, +infinity beyond the last column; K is scale times
 * that. `kind` is a constant where it is called (SINKHORN_KINDS): one source for all kinds, and a loop of its own for each.
 *
 * Cost: one load of 4 or 8 bytes an entry; for points d loads from rows of y, which stay in the cache, and 3 d operations.
 */
#include "exp.h"

#ifndef FGD_SINKHORN_H
#define FGD_SINKHORN_H

#include "fastgd.h"

enum { SINKHORN_F32, SINKHORN_F64, SINKHORN_SQUARES, SINKHORN_DISTANCES };

/* `call`, which uses the constant `kind`, for the kind in use. */
#define SINKHORN_KINDS(in_use, call)                \
    do {                                            \
        if ((in_use) == SINKHORN_F64) {             \
            enum { kind = SINKHORN_F64 };           \
            call;                                   \
        } else if ((in_use) == SINKHORN_F32) {      \
            enum { kind = SINKHORN_F32 };           \
            call;                                   \
        } else if ((in_use) == SINKHORN_SQUARES) {  \
            enum { kind = SINKHORN_SQUARES };       \
            call;                                   \
        } else {                                    \
            enum { kind = SINKHORN_DISTANCES };     \
            call;                                   \
        }                                           \
    } while (0)

#endif

#define TN(name) FN(name##_d)
#define REAL double
#define OF(t, field) ((t)->field)
#include "sinkhorn_costs.h"
#undef TN
#undef REAL
#undef OF
