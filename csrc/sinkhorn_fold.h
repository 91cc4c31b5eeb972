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
    for (int64_t j = 0; j < t->m; j += WIDTH) {
        int marked = 0;
        for (int64_t l = 0; l < WIDTH && j + l < t->m; l++)
            marked |= t->column[j + l] < 0.0;
        if (!marked)
            continue;
        VEC top = ALL(-INFINITY), sum = {0}, less;
        for (int64_t k = 0; k < chunks; k++)
            top = -FN(smaller_d)(-*(const VEC *)(t->part + k * size + j), -top);
        for (int64_t k = 0; k < chunks; k++) {
            const VEC *part = (const VEC *)(t->part + k * size + j), *sums = (const VEC *)(t->part + k * size + t->width + j);
            VEC below = (*part - top) * LN2; /* NaN where nothing is received at all */
            sum += *sums * FN(exp_d)(SELECT(below > -1000.0, below, ALL(-1000.0)), &less);
        }
        VEC logs = FN(log_d)(SELECT(sum > 0.0, sum, ALL(1.0)));
        for (int64_t l = 0, i = j; l < WIDTH && i < t->m; l++, i++)
            if (t->column[i] < 0.0) {
                double exact = t->b[i] == 0.0 ? -INFINITY : top[l] == -INFINITY ? INFINITY
                               : t->tau_b * (t->log_b[i] - (logs[l] + top[l] * LN2));
                t->g[i] = FN(moved)(t, t->g[i], exact);
            }
    }
}

/* exp(g - base_g) - 1 for a scaled sweep, and the greatest of them. */
static double FN(sinkhorn_steps)(const fgd_transport *t)
{
    float *steps = t->shifts;
    double most = 0.0;
    for (int64_t j = 0; j < t->width; j += WIDTH) {
        VEC move = {0}, less;
        for (int64_t l = 0; l < WIDTH && j + l < t->m; l++)
            move[l] = t->base_g[j + l] == -INFINITY ? 0.0 : FGD_MIN(FGD_MAX(t->g[j + l] - t->base_g[j + l], -50.0), 50.0);
        FN(exp_d)(move, &less);
        for (int64_t l = 0; l < WIDTH; l++) {
            steps[j + l] = (float)less[l];
            most = FGD_MAX(most, fabs(less[l]));
        }
    }
    return most;
}

/* From columns' sums: the error of a sweep. g: theirs; base: the one they were summed at; mass: what
 * to multiply them with. */
FGD_INLINE double FN(fold_error)(const fgd_transport *t, const double *g, const double *base, const double *mass)
{
    VEC lanes[PARTS] = {{0}};
    for (int64_t j = 0; j < t->m; j += 8)
        for (int64_t p = 0, at = j; p < PARTS && at < t->m; p++, at += WIDTH) {
            VEC c = *(const VEC *)(t->column + at), sum = c * *(const VEC *)(mass + at), step = sum - FN(take_d)(t->b, at, t->m);
            if (t->tau_b != 1.0) {
                VEC logs = FN(log_d)(SELECT(c > 0.0, c, ALL(1.0))), old = FN(take_d)(g, at, t->m);
                step = t->tau_b * ((FN(take_d)(t->log_b, at, t->m) - logs) + *(const VEC *)(base + at)) - old;
                step = SELECT(sum > 0.0, sum * step, ALL(0.0));
            }
            lanes[p] += SELECT(FN(inside_d)(at, t->m), SELECT(step < 0.0, -step, step), ALL(0.0));
        }
    return FN(sum_d)(lanes);
}

/* The columns' step; whether some have sums that are not to be trusted, which are marked. */
FGD_INLINE int FN(fold_step)(const fgd_transport *t, const double *base)
{
    const double tiny = t->single ? 0x1p-60 : 0x1p-700;
    int marked = 0;
    for (int64_t j = 0; j < t->m; j += WIDTH) {
        VEC c = *(const VEC *)(t->column + j), logs = FN(log_d)(SELECT(c >= tiny, c, ALL(1.0)));
        for (int64_t l = 0, i = j; l < WIDTH && i < t->m; l++, i++) {
            if (t->b[i] == 0.0)
                t->g[i] = -INFINITY;
            else if (c[l] >= tiny)
                t->g[i] = FN(moved)(t, t->g[i], t->tau_b * ((t->log_b[i] - logs[l]) + base[i]));
            else if (t->g[i] < INFINITY) {
                t->column[i] = -1.0;
                marked = 1;
            }
        }
    }
    return marked;
}

/* After a sweep: its error, g, and what comes next. A scaled sweep does not count when its error is below tol, which
 * an exact one has to say, or near its rounding. Keeping the plan pays when six sweeps more are likely. */
FGD_INLINE int FN(fold_sweep)(fgd_transport *t, int what, int64_t chunks, int64_t size, double tol, double *error)
{
    double rows = 0.0, most = 0.0, *base = t->part, *mass = base + t->width; /* the chunks' parts have been read then */
    for (int64_t k = 0; k < chunks; k++) {
        rows += t->part[k * size + t->width];
        most = FGD_MAX(most, t->part[k * size + t->width + 1]);
    }
    for (int64_t j = 0; j < t->width; j++) {
        float *single = t->shifts;
        double *wide = t->shifts;
        mass[j] = what == PASS_SCALED ? 1.0 + (double)single[j] : 1.0;
        base[j] = what == PASS_SCALED ? t->base_g[j] : t->single ? (double)single[j] * LN2 : wide[j] * LN2;
        if (what == PASS_SCALED) {
            most = FGD_MAX(most, fabs((double)single[j]));
            t->column[j] = FGD_MAX(t->column[j] + t->base_columns[j], 0.0);
        }
        if (what == PASS_ABSORB) {
            t->base_columns[j] = t->column[j];
            t->base_g[j] = base[j];
        }
    }
    *error = rows + FN(fold_error)(t, what == PASS_SCALED ? t->g : base, base, mass);
    double before = t->before, now = *error;
    if (what == PASS_SCALED && (now <= tol || most > 0.5 || now <= 1e-4 * most)) { /* not this one */
        int next = now > tol && t->steady > 2 ? PASS_ABSORB : PASS_SWEEP;
        memcpy(t->f, t->held, (size_t)t->n * sizeof *t->f);
        t->absorbed = t->steady = 0;
        *error = -1.0;
        return next;
    }
    if (now <= tol)
        return -1;
    int marked = FN(fold_step)(t, base), well = !marked && (what == PASS_SCALED || most == 0.0);
    t->before = now;
    t->left--;
    t->steady = well && what != PASS_ABSORB ? t->steady + 1 : 0;
    t->absorbed = well && what != PASS_SWEEP;
    if (marked)
        return PASS_COLUMNS;
    if (t->absorbed)
        return PASS_SCALED;
    double rate = now / before, rate2 = rate * rate;
    int many = t->plan && t->steady > 2 && t->left >= 6 && now * rate2 * rate2 * rate2 > tol && rate < 1.0;
    return many ? PASS_ABSORB : PASS_SWEEP;
}

static int FN(sinkhorn_fold)(fgd_transport *t, int what, int64_t chunks, int64_t size, double tol, double *error)
{
    if (what == PASS_COLUMNS) {
        FN(fold_columns)(t, chunks, size);
        return PASS_SWEEP;
    }
    FN(fold_sum)(t, chunks, size);
    return what <= PASS_SCALED ? FN(fold_sweep)(t, what, chunks, size, tol, error) : -1;
}
