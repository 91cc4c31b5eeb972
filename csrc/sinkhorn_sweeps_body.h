/* Sinkhorn sweeps and products with the plan, for one instruction set (isa.h). P_ij = exp(f_i + g_j - K_ij), K = scale C.
 *
 * Sweep. For each row e_j = exp(f_i + g_j - K_ij), s = sum e; f_i := tau_a (log a_i - log s + f_i); c_j += e_j exp(change of
 *        f_i). Then g_j := tau_b (log b_j - log c_j + g_j). After columns no entry exceeds its column's marginal, so no maximum
 *        is looked for.
 * Cost:  one exponential an entry and one read of C for a whole iteration: about 26 operations for a vector of entries. Four rows
 *        at a time share the loads of g and the loads and stores of c; their exponentials wait in 32 m bytes of scratch.
 * Order: entry j of a row goes to lane j mod 8 (float32: 16), lanes are folded as a tree; rows add to their chunk's columns in
 *        order, four at once, chunks in order. Chunks depend on the number of rows alone.
 */
#include "sinkhorn.h"

FGD_INLINE double FN(base_two)(double f)
{
    return f < INFINITY ? f * LOG2E : -INFINITY;
}

/* The update of up to four rows: from `sum` of 2^(base log2 e + g - K) to the next f, what to multiply these with, the error. */
FGD_INLINE void FN(update)(const fgd_transport *t, const int64_t *row, fgd_update *u)
{
    double sum[8], power[8] = {0}, exact[4];
    int simple = t->tau_a == 1.0 && t->relax == 1.0;
    for (int r = 0; r < 8; r++)
        sum[r] = r < u->count && u->sum[r] > 0.0 && u->sum[r] < INFINITY ? u->sum[r] : 1.0;
    for (int r = 0; r < 8; r += WIDTH)
        *(FN(anywhere_d) *)(sum + r) = FN(log_d)(*(FN(anywhere_d) *)(sum + r));
    for (int r = 0; r < u->count; r++) {
        double f = t->f[row[r]];
        exact[r] = u->sum[r] > 0.0 ? t->tau_a * ((t->log_a[row[r]] - sum[r]) + u->base[r]) : INFINITY;
        u->next[r] = t->relax == 1.0 || !(fabs(f) < INFINITY) ? exact[r] : f + t->relax * (exact[r] - f);
        power[r] = simple || u->sum[r] == 0.0 ? 0.0 : FGD_MIN(FGD_MAX(u->next[r] - u->base[r], -1000.0), 700.0);
    }
    if (!simple)
        for (int r = 0; r < 8; r += WIDTH) {
            VEC less;
            *(FN(anywhere_d) *)(power + r) = FN(exp_d)(*(FN(anywhere_d) *)(power + r), &less);
        }
    for (int r = 0; r < u->count; r++) {
        double a = t->a[row[r]];
        u->factor[r] = u->sum[r] == 0.0 ? 0.0 : simple ? a / u->sum[r] : power[r];
        double sent = u->factor[r] * u->sum[r];
        u->error[r] = u->sum[r] == 0.0 ? a : simple ? 0.0 : t->tau_a == 1.0 ? fabs(sent - a) : sent * fabs(exact[r] - u->next[r]);
    }
}

#include "sinkhorn_double.h"
#include "sinkhorn_scaled.h"
#include "sinkhorn_sweeps_real.h"
#include "sinkhorn_passes.h"
#include "sinkhorn_fold.h"

#include "sinkhorn_undefine.h"
#include "sinkhorn_float.h"
#include "sinkhorn_costs.h"
#include "sinkhorn_sweeps_real.h"
#include "sinkhorn_scaled_float.h"
#include "sinkhorn_undefine.h"

/* A pass over one chunk; e is scratch of 5 width numbers. */
static void FN(sinkhorn_chunk)(const fgd_transport *t, int what, int64_t lo, int64_t hi, void *e, double *part)
{
    if (what > PASS_SCALED)
        FN(pass_chunk)(t, what, lo, hi, e, part);
    else if (what == PASS_SCALED)
        FN(scaled_chunk)(t, lo, hi, e, part);
    else if (t->single)
        FN(sweep_chunk_f)(t, lo, hi, e, part, 0);
    else
        FN(sweep_chunk_d)(t, lo, hi, e, part, what == PASS_ABSORB);
}
