/* The linear systems of Sinkhorn-Newton-Sparse, in both potentials.
 *
 * Formula: ([I W; W' I] + v v') y = r, W = diag(P 1)^-1/2 P diag(P'1)^-1/2 of few entries; by conjugate gradients.
 * Cost:    an iteration reads W once, 12 bytes an entry, and ten vectors of n + m numbers.
 * Order:   rows ascending, an entry after the other; inner products in eight lanes, number i in lane i mod 8.
 */
#include "fastgd.h"
#include "simd.h"

static double sns_dot(int64_t n, const double *x, const double *y)
{
    double l[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            l[k] += x[i + k] * y[i + k];
    for (; i < n; i++)
        l[i & 7] += x[i] * y[i];
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

int64_t fgd_sns_solve(int64_t n, int64_t m, const int64_t *start, const int32_t *column, const double *value, const double *r0,
                      const double *v, double tol, int64_t limit, double *y)
{
    int64_t size = n + m, count = 0;
    double *r = fgd_scratch(3 * size * (int64_t)sizeof *r), *p = r + size, *q = p + size;
    if (!r)
        return -1;
    memcpy(r, r0, (size_t)size * sizeof *r);
    memcpy(p, r0, (size_t)size * sizeof *p);
    memset(y, 0, (size_t)size * sizeof *y);
    double square = sns_dot(size, r, r), end = tol * tol * square;
    for (; square > end && count < limit; count++) {
        double along = sns_dot(size, v, p);
        for (int64_t i = 0; i < size; i++)
            q[i] = p[i] + along * v[i];
        for (int64_t i = 0; i < n; i++) {
            double sum = 0.0, own = p[i];
            for (int64_t e = start[i]; e < start[i + 1]; e++) {
                sum += value[e] * p[n + column[e]];
                q[n + column[e]] += value[e] * own;
            }
            q[i] += sum;
        }
        double curvature = sns_dot(size, p, q);
        if (!(curvature > 0.0))
            break;
        double alpha = square / curvature, before = square;
        for (int64_t i = 0; i < size; i++) {
            y[i] += alpha * p[i];
            r[i] -= alpha * q[i];
        }
        square = sns_dot(size, r, r);
        for (int64_t i = 0; i < size; i++)
            p[i] = r[i] + square / before * p[i];
    }
    free(r);
    return count;
}
