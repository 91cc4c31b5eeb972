/* Sinkhorn sweeps and products with a transport plan: passes over chunks of rows (sinkhorn_sweeps_body.h), and folds, by one
 * caller, which add the chunks' columns in order, update g and say what the next pass does. A sweep's columns are summed before
 * it is known whether the errors of the rows, now exact, were small enough: then g stays, and the error is that of (f, g).
 */
#include "sinkhorn_api.h"
#include "simd.h"
#include "sinkhorn_sweeps.h"
#include "exp_scalar.h"

#define FGD_BODY "sinkhorn_sweeps_body.h"
#include "isa.h"

/* Numbers of `part` a chunk. */
static int64_t sinkhorn_part(const fgd_transport *t)
{
    return 2 * t->width + 8;
}

int64_t fgd_sinkhorn_memory(int64_t n, int64_t m, int scaled)
{
    int64_t width = (m + 15) / 16 * 16, chunks = FGD_MIN((n + 3) / 4, SINKHORN_CHUNKS);
    return 8 + 3 * width + 5 * n + m + chunks * (2 * width + 8) + (scaled ? 2 * width + 3 * n + n * width / 2 : 0);
}

/* What vectors are loaded from comes first, each of a multiple of 64 bytes; what Python reads lies together. */
int64_t fgd_sinkhorn_place(fgd_transport *t, double *memory, int scaled)
{
    const int64_t n = t->n, m = t->m, width = (m + 15) / 16 * 16;
    double *next = (double *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    t->width = width;
    t->shifts = next;
    t->part = next += width;
    next += FGD_MIN((n + 3) / 4, SINKHORN_CHUNKS) * sinkhorn_part(t);
    if (scaled) {
        t->base_g = next;
        t->base_columns = next += width;
        t->plan = (float *)(next += width);
        next += n * width / 2;
    }
    int64_t place = next - memory;
    t->g = next;
    t->column = next += width;
    t->f = next += width;
    t->sums = next += n;
    t->spent = next += n;
    t->log_a = next += n;
    t->log_b = next += n;
    t->row = (int64_t *)(next += m);
    if (scaled) {
        t->base_f = next += n;
        t->base_rows = next += n;
        t->held = next + n;
    }
    for (int64_t i = 0; i < n; i++) {
        t->f[i] = t->a[i] > 0.0 ? 0.0 : -INFINITY;
        if (t->a[i] > 0.0)
            t->row[t->rows++] = i;
    }
    for (int64_t j = 0; j < m; j++)
        t->g[j] = t->b[j] > 0.0 ? 0.0 : -INFINITY;
    return place;
}

int64_t fgd_sinkhorn_chunks(const fgd_transport *t)
{
    return (t->rows + sinkhorn_chunk(t) - 1) / sinkhorn_chunk(t);
}

void fgd_sinkhorn_begin(fgd_transport *t, int what)
{
    double *shifts = t->shifts;
    float *single = t->shifts;
    if (what == PASS_SCALED) {
        memcpy(t->held, t->f, (size_t)t->n * sizeof *t->f);
        FGD_CALL(sinkhorn_steps)(t);
        return;
    }
    if (what == PASS_COLUMNS)
        for (int64_t j = 0; j < t->width; j++)
            t->column[j] = -1.0;
    for (int64_t j = 0; j < t->width; j++) {
        double shift = j < t->m && t->g[j] < INFINITY ? t->g[j] * LOG2E : -INFINITY;
        if (t->single && what == PASS_SWEEP)
            single[j] = (float)shift;
        else
            shifts[j] = shift;
    }
}

int fgd_sinkhorn_pass(fgd_transport *t, int what, fgd_job *job)
{
    int64_t size = sinkhorn_chunk(t), chunks = fgd_sinkhorn_chunks(t);
    void *e = fgd_scratch(5 * t->width * (int64_t)sizeof(double));
    if (!e)
        return -1;
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < chunks;) {
        int64_t lo = chunk * size, hi = FGD_MIN(lo + size, t->rows);
        double *part = t->part + chunk * sinkhorn_part(t);
        FGD_CALL(sinkhorn_chunk)(t, what, lo, hi, e, part);
    }
    free(e);
    return 0;
}

int fgd_sinkhorn_fold(fgd_transport *t, int what, double tol, double *error)
{
    return FGD_CALL(sinkhorn_fold)(t, what, fgd_sinkhorn_chunks(t), sinkhorn_part(t), tol, error);
}

int fgd_sinkhorn_first(fgd_transport *t, int64_t count, double relax)
{
    t->relax = relax;
    t->left = count;
    return t->absorbed && FGD_CALL(sinkhorn_steps)(t) <= 0.5 ? PASS_SCALED : PASS_SWEEP;
}

int64_t fgd_sinkhorn_sweep(fgd_transport *t, int64_t count, double tol, double relax, double *errors)
{
    int64_t done = 0;
    for (int what = fgd_sinkhorn_first(t, count, relax); done < count && what >= 0; done += !(errors[done] < 0.0)) {
        fgd_sinkhorn_begin(t, what);
        do {
            fgd_job job = {0};
            if (fgd_sinkhorn_pass(t, what, &job) < 0)
                return -1;
            what = fgd_sinkhorn_fold(t, what, tol, errors + done);
        } while (what == PASS_COLUMNS);
    }
    return done;
}
