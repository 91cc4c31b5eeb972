/* The semi-dual F(g) = sum_i a_i log sum_j exp(g_j - K_ij) - b'g: a pass over the plan gives the rows' potentials, F's change, its
 * gradient c - b and the largest entries of the plan (sinkhorn_newton_body.h). Chunks of rows depend on their number alone, and are
 * added up in order.
 */
#include "sinkhorn_newton.h"
#include "exp_scalar.h"

#define FGD_BODY "sinkhorn_newton_body.h"
#include "isa.h"

int64_t fgd_semidual_chunks(const fgd_transport *t)
{
    int64_t rows = newton_chunk_rows(t->rows);
    return (t->rows + rows - 1) / rows;
}

/* g + step x, 0 <= step; and -infinity where nothing is sent, so also beyond the last column. */
void fgd_semidual_begin(fgd_semidual *s, double step)
{
    const fgd_transport *t = s->t;
    double *shifts = t->shifts;
    for (int64_t j = 0; j < t->width; j++) {
        s->g[j] = j < t->m && t->b[j] > 0.0 ? t->g[j] + step * s->x[j] : -INFINITY;
        shifts[j] = s->g[j] * LOG2E;
    }
    memcpy(s->f, t->f, (size_t)t->n * sizeof *s->f);
    s->step = step;
}

int fgd_semidual_pass(fgd_semidual *s, fgd_job *job)
{
    double *e = fgd_scratch(2 * (s->t->width + 8) * (int64_t)sizeof *e + (s->t->width + 8) * 4);
    int well = e != NULL;
    for (int64_t chunk; well && (chunk = fgd_take(&job->next)) < s->chunks;)
        well = FGD_CALL(newton_rows)(s, chunk, e);
    free(e);
    return well ? 0 : -1;
}

/* c, the error |c - b|_1 and F's change against the potentials that the pass began with. */
void fgd_semidual_fold(fgd_semidual *s)
{
    const fgd_transport *t = s->t;
    double error[8] = {0}, moved[8] = {0}, change = 0.0;
    memset(s->next, 0, (size_t)t->width * sizeof *s->next);
    s->entries = 0;
    s->noise = 0.0;
    for (int64_t k = 0; k < s->chunks; k++) {
        const double *part = s->part + k * (t->width + 8);
        for (int64_t j = 0; j < t->width; j++)
            s->next[j] += part[j];
        change += part[t->width];
        s->noise += part[t->width + 1];
        s->entries += s->kept[k].found;
    }
    for (int64_t j = 0; j < t->m; j++) {
        error[j & 7] += fabs(s->next[j] - t->b[j]);
        moved[j & 7] += t->b[j] * s->x[j];
    }
    for (int l = 1; l < 8; l++) {
        error[0] += error[l];
        moved[0] += moved[l];
    }
    s->error = error[0];
    s->change = change - s->step * moved[0];
}

int fgd_semidual_evaluate(fgd_semidual *s, double step)
{
    fgd_job job = {0};
    fgd_semidual_begin(s, step);
    int status = fgd_semidual_pass(s, &job);
    fgd_semidual_fold(s);
    return status;
}

/* The trial is held from now on. */
void fgd_semidual_accept(fgd_semidual *s)
{
    const fgd_transport *t = s->t;
    memcpy(t->f, s->f, (size_t)t->n * sizeof *s->f);
    memcpy(t->g, s->g, (size_t)t->m * sizeof *s->g);
    memcpy(s->c, s->next, (size_t)t->width * sizeof *s->c);
}

void fgd_semidual_free(fgd_semidual *s)
{
    for (int64_t k = 0; k < s->chunks; k++) {
        free(s->kept[k].value);
        free(s->kept[k].column);
    }
    free(s->turned.value);
    free(s->turned.column);
}
