/* Newton's direction on the semi-dual: (diag(c) - P' diag(1/a) P + shift diag(max(b, c))) x = b - c with the entries of P that were
 * kept, by conjugate gradients (sinkhorn_newton_solve_body.h). */
#include "sinkhorn_newton.h"
#include "exp_scalar.h"

#define FGD_BODY "sinkhorn_newton_solve_body.h"
#include "isa.h"

/* W' in `turned`: an entry of row r of W goes to row `column`, in rising order of r. */
static int newton_turn(fgd_semidual *s)
{
    int64_t m = s->t->width, places = 0, *next = s->next_place;
    int32_t *size = s->turned_size;
    memset(size, 0, (size_t)m * sizeof *size);
    for (int64_t k = 0; k < s->chunks; k++)
        for (int64_t e = 0; e < s->kept[k].entries; e++)
            if (s->kept[k].column[e] < m)
                size[s->kept[k].column[e]]++;
    for (int64_t j = 0; j < m; j++) {
        next[j] = places;
        places += newton_round(size[j]);
    }
    s->turned.entries = 0;
    if (!newton_room(&s->turned, places))
        return -1;
    s->turned.entries = places;
    s->turned.rows = m;
    int64_t r = 0;
    for (int64_t k = 0; k < s->chunks; k++) {
        const double *value = s->kept[k].value;
        const int32_t *column = s->kept[k].column;
        for (int64_t end = r + s->kept[k].rows; r < end; r++)
            for (int64_t left = s->size[r]; left > 0; left--, value++, column++)
                if (*column < m) {
                    int64_t place = next[*column]++;
                    s->turned.value[place] = *value;
                    s->turned.column[place] = (int32_t)r;
                }
    }
    for (int64_t j = 0; j < m; j++) {
        for (; next[j] & 7; next[j]++) {
            s->turned.value[next[j]] = 0.0;
            s->turned.column[next[j]] = (int32_t)(s->t->rows + (next[j] & 7));
        }
        size[j] = (int32_t)newton_round(size[j]);
    }
    return 0;
}

/* x is moved along the null direction to a mean of 0 under b; what the trial of it has to know. */
static void newton_measure(fgd_semidual *s)
{
    const fgd_transport *t = s->t;
    double mean = 0.0, mass = 0.0;
    for (int64_t j = 0; j < t->m; j++) {
        mean += t->b[j] * s->x[j];
        mass += t->b[j];
    }
    mean = mass > 0.0 ? mean / mass : 0.0;
    s->slope = s->longest = 0.0;
    for (int64_t j = 0; j < t->m; j++) {
        double gradient = s->c[j] - t->b[j];
        s->x[j] = t->b[j] > 0.0 ? s->x[j] - mean : 0.0;
        s->slope += s->x[j] * gradient;
        s->longest = FGD_MAX(s->longest, fabs(s->x[j]));
    }
}

int fgd_semidual_solve(fgd_semidual *s, double shift)
{
    const fgd_transport *t = s->t;
    int64_t m = t->width, room = m + 8;
    double *scale = s->work, *r = scale + room, *p = r + room, *q = p + room, *rows = q + room, *x = s->x;
    memset(s->work, 0, (size_t)(4 * room + newton_round(t->rows) + 8) * sizeof *s->work);
    for (int64_t j = 0; j < t->m; j++) {
        double diagonal = s->c[j] + shift * FGD_MAX(t->b[j], s->c[j]);
        scale[j] = t->b[j] > 0.0 && diagonal > 0.0 ? 1.0 / sqrt(diagonal) : 0.0;
        r[j] = scale[j] * (t->b[j] - s->c[j]);
    }
    for (int64_t k = 0; k < t->rows; k++)
        rows[k] = 1.0 / sqrt(t->a[t->row[k]]);
    FGD_CALL(newton_scale)(s, scale, rows);
    if (newton_turn(s))
        return -1;
    memset(rows, 0, (size_t)(newton_round(t->rows) + 8) * sizeof *rows);
    s->count = FGD_CALL(newton_gradients)(s, x, r, p, q, rows);
    for (int64_t j = 0; j < t->m; j++)
        x[j] *= scale[j];
    newton_measure(s);
    return 0;
}

/* Sinkhorn's update of the columns as a direction. */
void fgd_semidual_update(fgd_semidual *s)
{
    const fgd_transport *t = s->t;
    for (int64_t j = 0; j < t->m; j++)
        s->x[j] = t->b[j] > 0.0 && s->c[j] > 0.0 ? fgd_log(t->b[j]) - fgd_log(s->c[j]) : 0.0;
}
