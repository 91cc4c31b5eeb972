/* The other passes over the rows, in double, for one instruction set: row by row through the exponentials of the sweep.
 *
 * Cost: one exponential an entry and one read of C, and one more of both in PASS_ROWS and PASS_COLUMNS, which look for the
 *       greatest exponents first. They are right from any start.
 */

/* f_i = tau_a (log a_i - log sum_j exp(g_j - K_ij)) */
FGD_INLINE void FN(pass_row)(const fgd_transport *t, int64_t row, double *e)
{
    double top = FN(top_d)(t, row), base = top == -INFINITY ? top : -top;
    fgd_update u = {.count = 1, .base = {base * LN2}};
    FN(exponentials_d)(t, 1, &row, &base, e, u.sum);
    FN(update)(t, &row, &u);
    t->f[row] = u.next[0];
}

/* least_j = min(least_j, K_ij - f_i) */
FGD_INLINE void FN(least_of)(const fgd_transport *t, const int kind, int64_t row, double *least)
{
    const double scale = t->scale * LOG2E, base = FN(base_two)(t->f[row]);
    for (int64_t j = 0; j < t->m; j += WIDTH) {
        VEC *at = (VEC *)(least + j);
        *at = FN(smaller_d)(scale * FN(costs_d)(t, kind, row, j) - base, *at);
    }
}

/* part: for each column the greatest f_i - K_ij of these rows, and the sum of 2^ what they are less that. */
FGD_INLINE void FN(pass_columns)(const fgd_transport *t, int64_t lo, int64_t hi, double *e, double *part)
{
    double *least = e + t->width, *c = e + 2 * t->width, one = 1.0, sum;
    fgd_transport inner = *t; /* g of these rows: the exponents' least negatives */
    inner.shifts = least;
    for (int64_t j = 0; j < t->width; j++) {
        least[j] = INFINITY;
        c[j] = 0.0;
    }
    for (int64_t i = lo; i < hi; i++)
        SINKHORN_KINDS(t->kind, FN(least_of)(t, kind, t->row[i], least));
    for (int64_t j = 0; j < t->width; j++) {
        part[j] = -least[j];
        least[j] = least[j] == INFINITY ? -INFINITY : least[j]; /* nothing is received: no exponential counts */
    }
    for (int64_t i = lo; i < hi; i++) {
        double base = FN(base_two)(t->f[t->row[i]]);
        FN(exponentials_d)(&inner, 1, t->row + i, &base, e, &sum);
        FN(add_d)(t, 1, &one, e, c);
    }
    memcpy(part + t->width, c, (size_t)t->width * sizeof *c);
}

/* sum_j C_ij e_j, where 0 infinity = 0 */
FGD_INLINE double FN(spent_of)(const fgd_transport *t, const int kind, int64_t row, const double *e)
{
    VEC lanes[PARTS] = {{0}};
    for (int64_t j = 0; j < t->m; j += WIDTH * PARTS)
        for (int64_t p = 0, at = j; p < PARTS; p++, at += WIDTH) {
            VEC v = *(const VEC *)(e + at);
            lanes[p] += SELECT(v > 0.0, v * FN(costs_d)(t, kind, row, at), ALL(0.0));
        }
    return FN(sum_d)(lanes);
}

FGD_NOINLINE double FN(pass_spent)(const fgd_transport *t, int64_t row, const double *e)
{
    double spent = 0.0;
    SINKHORN_KINDS(t->kind, spent = FN(spent_of)(t, kind, row, e));
    return spent;
}

FGD_INLINE double FN(pass_product)(const fgd_transport *t, const double *e)
{
    VEC lanes[PARTS] = {{0}};
    for (int64_t j = 0; j < t->m; j += WIDTH * PARTS)
        for (int64_t p = 0, at = j; p < PARTS; p++, at += WIDTH)
            lanes[p] += *(const VEC *)(e + at) * *(const FN(anywhere_d) *)(t->vector + at);
    return FN(sum_d)(lanes);
}

/* Entries above the threshold: how many, and written. */
FGD_INLINE int64_t FN(pass_large)(const fgd_transport *t, const double *e, int64_t to, const int write)
{
    int64_t count = 0;
    for (int64_t j = 0; j < t->m; j++)
        if (e[j] > t->threshold) {
            if (write) {
                t->values[to + count] = e[j];
                t->index[to + count] = j;
            }
            count++;
        }
    return count;
}

static void FN(pass_chunk)(const fgd_transport *t, int what, int64_t lo, int64_t hi, double *e, double *part)
{
    double *c = e + 4 * t->width;
    if (what == PASS_COLUMNS) {
        FN(pass_columns)(t, lo, hi, e, part);
        return;
    }
    memset(c, 0, (size_t)t->width * sizeof *c);
    for (int64_t i = lo; i < hi; i++) {
        int64_t row = t->row[i];
        double base = FN(base_two)(t->f[row]), factor = what == PASS_TRANSPOSE ? t->vector[row] : 1.0, sum;
        if (what == PASS_ROWS) {
            FN(pass_row)(t, row, e);
            continue;
        }
        FN(exponentials_d)(t, 1, &row, &base, e, &sum);
        if (what == PASS_MARGINALS) {
            t->sums[row] = sum;
            t->spent[row] = FN(pass_spent)(t, row, e);
        }
        if (what == PASS_MARGINALS || what == PASS_TRANSPOSE)
            FN(add_d)(t, 1, &factor, e, c);
        else if (what == PASS_APPLY)
            t->sums[row] = FN(pass_product)(t, e);
        else if (what == PASS_DENSE)
            memcpy(t->values + row * t->m, e, (size_t)t->m * sizeof *e);
        else if (what == PASS_COUNT)
            t->start[row] = FN(pass_large)(t, e, 0, 0);
        else
            FN(pass_large)(t, e, t->start[row], 1);
    }
    memcpy(part, c, (size_t)t->width * sizeof *c);
}
