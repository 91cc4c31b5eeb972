/* After a pass, for one instruction set: the chunks' columns become one, and g moves. */

FGD_INLINE void FN(fold_sum)(const fgd_transport *t, int64_t chunks, int64_t size)
{
    memset(t->column, 0, (size_t)t->width * sizeof *t->column);
    for (int64_t k = 0; k < chunks; k++)
        for (int64_t j = 0; j < t->width; j++)
            t->column[j] += t->part[k * size + j];
}

FGD_INLINE double FN(moved)(const fgd_transport *t, double g, double exact)
{
    return t->relax == 1.0 || !(fabs(g) < INFINITY) ? exact : g + t->relax * (exact - g);
}

/* g of the columns marked with a negative sum: tau_b (log b - log sum_i exp(f_i - K_ij)). */
FGD_INLINE void FN(fold_columns)(const fgd_transport *t, int64_t chunks, int64_t size)
{
    for (int64_t j = 0; j < t->m; j++) {
        if (!(t->column[j] < 0.0))
            continue;
        double top = -INFINITY, sum = 0.0;
        for (int64_t k = 0; k < chunks; k++)
            top = FGD_MAX(top, t->part[k * size + j]);
        for (int64_t k = 0; k < chunks; k++)
            if (t->part[k * size + j] > -INFINITY)
                sum += t->part[k * size + t->width + j] * fgd_exp((t->part[k * size + j] - top) * LN2);
        double exact = t->b[j] == 0.0 ? -INFINITY : top == -INFINITY ? INFINITY
                       : t->tau_b * (t->log_b[j] - (fgd_log(sum) + top * LN2));
        t->g[j] = FN(moved)(t, t->g[j], exact);
    }
}

/* A sweep's error, and the columns' step where it is above tol. Columns whose sum is not to be trusted are marked. */
FGD_INLINE int FN(fold_sweep)(const fgd_transport *t, int64_t chunks, int64_t size, double tol, double *error)
{
    const double *wide = t->shifts;
    const float *single = t->shifts;
    const double tiny = t->single ? 0x1p-60 : 0x1p-700;
    int marked = 0;
    VEC lanes[PARTS] = {{0}};
    double rows = 0.0;
    for (int64_t k = 0; k < chunks; k++)
        rows += t->part[k * size + t->width];
    for (int again = 0; again < 2; again++) {
        for (int64_t j = 0; j < t->m; j += 8)
            for (int64_t p = 0, at = j; p < PARTS && at < t->m; p++, at += WIDTH) {
                VEC c = *(const VEC *)(t->column + at), b = FN(take_d)(t->b, at, t->m);
                if (!again && t->tau_b == 1.0) {
                    VEC step = c - b;
                    lanes[p] += SELECT(FN(inside_d)(at, t->m), SELECT(step < 0.0, -step, step), ALL(0.0));
                    continue;
                }
                VEC logs = FN(log_d)(SELECT(c >= tiny, c, ALL(1.0)));
                for (int64_t l = 0; l < WIDTH && at + l < t->m; l++) {
                    int64_t i = at + l;
                    double base = t->single ? (double)single[i] * LN2 : wide[i] * LN2;
                    double exact = t->tau_b * ((t->log_b[i] - logs[l]) + base);
                    if (!again)
                        lanes[p][l] += c[l] > 0.0 ? c[l] * fabs(exact - base) : 0.0;
                    else if (t->b[i] == 0.0)
                        t->g[i] = -INFINITY;
                    else if (c[l] >= tiny)
                        t->g[i] = FN(moved)(t, t->g[i], exact);
                    else if (t->g[i] < INFINITY) {
                        t->column[i] = -1.0;
                        marked = 1;
                    }
                }
            }
        if (!again) {
            *error = rows + FN(sum_d)(lanes);
            if (*error <= tol)
                return -1;
        }
    }
    return marked ? PASS_COLUMNS : PASS_SWEEP;
}

static int FN(sinkhorn_fold)(const fgd_transport *t, int what, int64_t chunks, int64_t size, double tol, double *error)
{
    if (what == PASS_COLUMNS) {
        FN(fold_columns)(t, chunks, size);
        return PASS_SWEEP;
    }
    FN(fold_sum)(t, chunks, size);
    return what == PASS_SWEEP ? FN(fold_sweep)(t, chunks, size, tol, error) : -1;
}
