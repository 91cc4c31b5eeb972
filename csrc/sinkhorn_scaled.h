/* Scaled sweeps, for one instruction set: from a plan kept in memory, without exponentials.
 *
 * Let Q be the plan at potentials f0, g0, kept in float32, with exact sums r and c; v = exp(g - g0), u = exp(f - f0). A row's sum
 * is s = r + Q (v - 1), which gives u, and the columns' are c + Q'(u - 1). Only what changed since goes through the rounded Q: an
 * error of 2^-24 |v - 1|, which vanishes as sweeps converge. Entries below `flush`, as good as 0, are 0.
 * Cost:  4 operations for 16 entries, and one read of 4 bytes an entry.
 * Order: as in the sweep, in sixteen lanes.
 */

/* Q_i = factor e, and what belongs to it. */
FGD_NOINLINE void FN(keep)(const fgd_transport *t, int64_t i, const double *e, double factor, double f, double sum)
{
    int64_t row = t->row[i];
    float *q = t->plan + i * t->width;
    for (int64_t j = 0; j < t->width; j++) {
        double p = factor * e[j];
        q[j] = (float)(p >= t->flush ? p : 0.0);
    }
    t->base_f[row] = f;
    t->base_rows[row] = factor * sum;
}
