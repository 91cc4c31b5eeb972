/* p_i proportional to e^(gamma x_i), x_i = a (z_i - s), from the moments of bins.
 *
 * Formula: sums of e^(gamma x), x e^(gamma x) and x^2 e^(gamma x) by Taylor's series about each bin's lower edge x_b: with
 *          y = gamma a width, a bin's sum of e^(gamma x) is e^(gamma x_b) sum_j y^j / j! sum tau^j. All terms are positive; for
 *          y <= 1/2 the 14 terms leave out less than 1e-15. e^(gamma x) - 1 is summed apart, so that a small D keeps its digits.
 * Cost:    90 operations and an exponential a bin that is not empty.
 * Order:   bins ascending, in each the small terms first.
 */
#ifndef FGD_DRO_TILT_H
#define FGD_DRO_TILT_H

#include "dro_bins.h"
#include "exp_scalar.h"

/* What one gamma gives. */
typedef struct {
    double log_c, mean;       /* p_i = exp(log_c + gamma x_i) above the floor; d log_c / d gamma = -mean, the mean of x there */
    double divergence, slope; /* D and dD / d gamma */
} fgd_tilt;

/* `whole`: the elements on the floor are free too; else they have delta / n each. */
static fgd_tilt fgd_tilted(const fgd_kl *w, int whole, double gamma)
{
    double n = (double)w->own.n, m = (double)w->active, step = w->a * w->width, y = gamma * step, c[FGD_MOMENTS - 2] = {1.0};
    for (int j = 1; j < FGD_MOMENTS - 2; j++)
        c[j] = c[j - 1] * y / (double)j;
    double highest = gamma * w->a * (fgd_bin_edge(w, w->top + 1) - w->s), shift = highest > 30.0 ? highest : 0.0;
    double beyond = 0.0, t0 = 0.0, t1 = 0.0, t2 = 0.0; /* of the active elements; `beyond`: sum of e^(gamma x) - 1 */
    for (int64_t bin = w->base > 0; bin <= w->top; bin++) {
        const double *moment = w->moment[bin];
        if (fgd_bin_size(w, bin) == 0)
            continue;
        double p0 = 0.0, p1 = 0.0, p2 = 0.0, x = w->a * (fgd_bin_edge(w, bin) - w->s);
        double less = fgd_expm1(gamma * x - shift), e = 1.0 + less;
        for (int j = FGD_MOMENTS - 3; j > 0; j--) { /* small terms first */
            p0 += c[j] * moment[j];
            p1 += c[j] * moment[j + 1];
            p2 += c[j] * moment[j + 2];
        }
        double count = (double)fgd_bin_size(w, bin);
        beyond += e * p0 + less * count;
        p0 += count;
        p1 += moment[1];
        p2 += moment[2];
        t0 += e * p0;
        t1 += e * (x * p0 + step * p1);
        t2 += e * (x * x * p0 + 2.0 * x * step * p1 + step * step * p2);
    }
    fgd_tilt t;
    if (whole) {
        double e = fgd_exp(-shift);
        t0 += (n - m) * e;
        t.mean = t1 / t0;
        double log_mean = shift == 0.0 ? fgd_log1p(beyond / n) : fgd_log(t0 / n) + shift;
        t.log_c = -fgd_log(n) - log_mean;
        t.divergence = gamma * t.mean - log_mean;
        t.slope = gamma * (t2 / t0 - t.mean * t.mean);
    } else {
        double floors = (n - m) * (w->own.floor / n), mass = 1.0 - floors;
        t.mean = t1 / t0;
        t.log_c = fgd_log(mass / t0) - shift;
        t.divergence = mass * (fgd_log(n) + t.log_c + gamma * t.mean) + floors * fgd_log(w->own.floor);
        t.slope = mass * gamma * (t2 / t0 - t.mean * t.mean);
    }
    return t;
}

#endif
