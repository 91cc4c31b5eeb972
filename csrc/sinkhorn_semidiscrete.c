/* Semi-discrete transport: csrc/sinkhorn_semidiscrete_body.h for every instruction set. */
#include "fastgd.h"
#include "exp_scalar.h"

#define FGD_BODY "sinkhorn_semidiscrete_body.h"
#include "isa.h"

void fgd_sinkhorn_descend(const fgd_atoms *atoms, const double *x, int64_t steps, int64_t batch, const fgd_descent *by,
                          double *value)
{
    FGD_CALL(descend)(atoms, x, steps, batch, by, value);
}

void fgd_sinkhorn_assign(const fgd_atoms *atoms, const double *x, int64_t lo, int64_t hi, int64_t *index, double *least)
{
    FGD_CALL(assign)(atoms, x, lo, hi, index, least);
}
