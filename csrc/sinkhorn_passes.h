/* The other passes over the rows, in double, for one instruction set: row by row through the exponentials of the sweep.
 *
 * Cost: one exponential an entry and one read of C, and one more of both in PASS_ROWS and PASS_COLUMNS, which look for the
 *       greatest exponents first. They are right from any start.
 */

/* f_i = tau_a (log a_i - log sum_j exp(g_j - K_ij)) */
FGD_INLINE void FN(pass_row)(const fgd_transport *t, const int kind, int64_t row, double *e)
{
    double top = FN(top_d)(t, kind, row, t->shifts), base = top == -INFINITY ? top : -top;
    fgd_update u = {.count = 1, .base = {base * LN2}};
    FN(exponentials_d)(t, kind, 1, &row, &base, t->shifts, e, u.sum);
    FN(update)(t, &row, &u);
    t->f[row] = u.next[0];
}

/* part: for each column the greatest f_i - K_ij of these rows, and the sum of 2^ what they are less that. */
FGD_INLINE void FN(pass_columns)(const fgd_transport *t, const int kind, int64_t lo, int64_t hi, double *e, double *part)
{
    double *least = e + t->width, *c = e + 2 * t->width, one = 1.0;
    for (int64_t j = 0; j < t->width; j++) {
        least[j] = INFINITY;
        c[j] = 0.0;
    }
    for (int64_t i = lo; i < hi; i++)
        for (int64_t j = 0; j < t->m; j += WIDTH) {
            VEC *at = (VEC *)(least + j);
            *at = FN(smaller_d)((t->scale * LOG2E) * FN(costs_d)(t, kind, t->row[i], j) - FN(base_two)(t->f[t->row[i]]), *at);
        }
    for (int64_t j = 0; j < t->width; j++) {
        part[j] = -least[j];
        least[j] = least[j] == INFINITY ? -INFINITY : least[j]; /* nothing is received: no exponential counts */
    }
    for (int64_t i = lo; i < hi; i++) {
        double base = FN(base_two)(t->f[t->row[i]]), sum;
        FN(exponentials_d)(t, kind, 1, t->row + i, &base, least, e, &sum);
        FN(add_d)(t, 1, &one, e, c);
    }
    memcpy(part + t->width, c, (size_t)t->width * sizeof *c);
}

/* sum_j C_ij e_j, where 0 infinity = 0; and sum_j v_j e_j */
FGD_INLINE double FN(pass_spent)(const fgd_transport *t, const int kind, int64_t row, const double *e)
{
    VEC lanes[PARTS] = {{0}};
    for (int64_t j = 0; j < t->m; j += WIDTH * PARTS)
        for (int64_t p = 0, at = j; p < PARTS; p++, at += WIDTH) {
            VEC v = *(const VEC *)(e + at);
            lanes[p] += SELECT(v > 0.0, v * FN(costs_d)(t, kind, row, at), ALL(0.0));
        }
    return FN(sum_d)(lanes);
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

FGD_INLINE void FN(pass_chunk)(const fgd_transport *t, const int kind, int what, int64_t lo, int64_t hi, double *e, double *part)
{
    double *c = e + 4 * t->width;
    if (what == PASS_COLUMNS) {
        FN(pass_columns)(t, kind, lo, hi, e, part);
        return;
    }
    memset(c, 0, (size_t)t->width * sizeof *c);
    for (int64_t i = lo; i < hi; i++) {
        int64_t row = t->row[i];
        double base = FN(base_two)(t->f[row]), factor = what == PASS_TRANSPOSE ? t->vector[row] : 1.0, sum;
        if (what == PASS_ROWS) {
            FN(pass_row)(t, kind, row, e);
            continue;
        }
        FN(exponentials_d)(t, kind, 1, &row, &base, t->shifts, e, &sum);
        if (what == PASS_MARGINALS) {
            t->sums[row] = sum;
            t->spent[row] = FN(pass_spent)(t, kind, row, e);
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
