/* Sets of exponential weights, p_i ~ exp(x_i) with x = slope (z - max z): what the folds of dro_sets.c do between passes.
 *
 * Ball (KL). D(slope) = sum p log(n p) grows with the slope, d D / d log slope = Var_p(x); its limit is L = log(n / ties). Steps
 * are Newton's, from sqrt(2 R / Var z) on: below L / 2 in (log slope, log D), which is nearly a line of slope 2; above it in
 * (slope, log(L - D)), which is nearly a line too. A step that leaves the bracket is replaced by bisection.
 * Floor (projection). p_i = max(floor / n, C e^x): C follows from the active elements, those above x = log(floor / (n C)), and is
 * taken again until they are the ones that it makes active: Newton's method for a convex piecewise linear equation.
 * Caps (KL-CVaR). p_i = min(exp(x_i - u), 1) / (alpha n). If the u without caps is below max x, u starts from the
 * ceil(alpha n)-th largest x, where H(u) = sum of min(exp(x - u), 1) = m + T is at least alpha n; m elements are above u. Steps
 * are Newton's for log H in u, which is nearly a line, within a bracket. Its upper end is Newton's step for H as a concave
 * function of exp(-u): u - log((alpha n - m) / T), never too low, and right as soon as the same m elements are above. x is
 * measured from that element, and keeps its digits however small the temperature is.
 *
 * Where x is small, sums of e^x - 1 take the place of those of e^x, so that large temperatures lose nothing.
 */
#include "dro_sets.h"
#include "exp_scalar.h"

/* The slope, in a unit that keeps it in range. */
static void set_slope(fgd_set *s, double slope)
{
    if (slope > 0x1p100) {
        int k;
        frexp(slope, &k);
        int32_t before = s->e;
        set_reference(s, s->high, s->e - k);
        slope = ldexp(slope, s->e - before);
        s->slow = ldexp(s->slow, s->e - before);
        s->fast = ldexp(s->fast, s->e - before);
    }
    s->slope = slope;
}

/* x of the element z. */
static double set_x(const fgd_set *s, double z)
{
    return (z * s->head - s->centre) * s->scale * s->slope;
}

static int set_tilt_from(fgd_set *s, double slope, double cut, double from)
{
    set_slope(s, slope);
    s->cut = cut;
    s->from = from;
    s->phase = SET_TILT;
    return 1;
}

int set_begin_tilt(fgd_set *s)
{
    s->fast = INFINITY;
    s->span = s->e;
    s->span_head = s->head;
    s->span_centre = s->centre;
    s->span_scale = s->scale;
    if (s->unit > 0.0) {
        int e;
        double slope = 1.0 / frexp(s->unit, &e);
        set_reference(s, s->high, e);
        return set_tilt_from(s, slope * ldexp(1.0, s->e - e), s->kind == SET_CAPPED ? INFINITY : -INFINITY, 0.0);
    }
    if (s->logs)
        return set_tilt_from(s, ldexp(1.0, s->e), -INFINITY, 0.0);
    if (s->radius >= fgd_log((double)s->n / s->ties))
        return set_finish_ties(s);
    s->cut = -INFINITY;
    s->phase = SET_MOMENTS;
    return 1;
}

/* The first slope for the ball, from the variance of z. */
int set_fold_spread(fgd_set *s, const double *sum)
{
    if (s->radius > 0.0)
        return set_tilt_from(s, sqrt(2.0 * s->radius) / sqrt(sum[2] / sum[0]), -INFINITY, 0.0);
    s->base = 1.0 / sum[0];
    s->value = set_place(s, sum[1]);
    s->phase = SET_WRITE_LINEAR;
    return 1;
}

/* log of the mean of e^x over all. */
static double set_log_mean(const fgd_set *s, const double *sum)
{
    double n = (double)s->n;
    return sum[1] > 0.5 * n ? fgd_log1p(sum[4] / n) : fgd_log(sum[1] / n);
}

static int set_finish_tilted(fgd_set *s, double slope, double factor, double from, double value)
{
    s->value = value;
    set_slope(s, slope);
    s->factor = factor;
    s->from = from;
    s->phase = SET_WRITE_TILTED;
    return 1;
}

/* Newton's slope for D = R, or one that halves the bracket. */
static double set_next_slope(fgd_set *s, double distance, double gradient, double limit)
{
    double radius = s->radius, ratio;
    if (distance > 0.5 * limit && limit > distance)
        ratio = 1.0 + fgd_log((limit - distance) / (limit - radius)) * ((limit - distance) / gradient);
    else
        ratio = distance > 0.0 ? fgd_exp(fgd_log(radius / distance) * (distance / gradient)) : INFINITY;
    *(distance < radius ? &s->slow : &s->fast) = s->slope;
    double reach = ldexp(1.0, 2 * FGD_MIN(s->tries, 20)); /* short steps at first: far away D is flat on both sides */
    double next = s->slope * FGD_MIN(FGD_MAX(ratio, 1.0 / reach), reach);
    if (next > s->slow && next < s->fast)
        return next;
    if (s->fast == INFINITY)
        return 8.0 * s->slow;
    return s->slow > 0.0 ? sqrt(s->slow) * sqrt(s->fast) : 0.125 * s->fast;
}

int set_fold_tilt(fgd_set *s, const double *sum)
{
    double n = (double)s->n, idle = sum[0], mass = 1.0 - idle * (s->floor / n);
    double mean = sum[2] / sum[1], spread = FGD_MAX(sum[3] / sum[1] - mean * mean, 0.0);
    double log_factor = idle == 0.0 ? -set_log_mean(s, sum) : fgd_log(n * mass / sum[1]); /* log(n C) */
    double log_floor = s->floor > 0.0 ? fgd_log(s->floor) : -INFINITY, cut = log_floor - log_factor;
    s->stored = s->logs;
    if (s->floor > 0.0 && !(set_x(s, sum[6]) <= cut && cut < set_x(s, sum[7])) && s->references++ < 50) {
        s->cut = cut;
        return 1;
    }
    s->references = 0;
    if (s->radius == INFINITY) /* a penalty */
        return set_finish_tilted(s, s->slope, mass / sum[1], 0.0, set_place(s, -log_factor / s->slope));
    double distance = mass * (mean + log_factor) + (idle > 0.0 ? idle * (s->floor / n) * log_floor : 0.0);
    double next = s->slope, noise = 0x1p-51 * (fabs(mean) + fabs(log_factor) + s->radius);
    int done = (s->logs && s->tries == 0 && distance <= s->radius) || fabs(distance - s->radius) <= noise || s->tries++ >= 1000;
    if (!done)
        next = set_next_slope(s, distance, mass * spread, s->logs ? 0.0 : fgd_log(n / s->ties));
    double step = next / s->slope - 1.0, growth = mean * step + 0.5 * spread * step * step; /* of the logarithm of sum[1] */
    if (fabs(step) <= 0x1p-28)
        return set_finish_tilted(s, next, mass / sum[1] * (1.0 - growth), 0.0,
                                 set_place(s, (mean + spread * step) / s->slope));
    return set_tilt_from(s, next, fabs(step) < 0.5 ? cut + growth : -INFINITY, 0.0);
}

/* The value is sum of p z over the capped + (weight of the others) u + lambda log alpha, from the largest z. */
static int set_finish_caps(fgd_set *s, double u, const double *sum)
{
    double places = s->alpha * (double)s->n, rest = (places - sum[0]) / places;
    double level = (s->c * s->span_head - s->span_centre) * s->span_scale + ldexp(u / s->slope, s->e - s->span);
    double value = sum[5] / places + rest * level + ldexp(fgd_log(s->alpha) / s->slope, s->e - s->span);
    double half = 0.5 * s->high + ldexp(value, s->span - 1);
    return set_finish_tilted(s, s->slope, 1.0 / places, u, 2.0 * half);
}

int set_begin_caps(fgd_set *s, double quantile)
{
    set_reference(s, quantile, s->e);
    return set_tilt_from(s, s->slope, 0.0, 0.0);
}

int set_fold_caps(fgd_set *s, const double *sum)
{
    double n = (double)s->n;
    if (s->cut == INFINITY) {
        double level = set_log_mean(s, sum);
        if (level >= fgd_log(s->alpha))
            return set_finish_tilted(s, s->slope, 1.0 / sum[1], 0.0, set_place(s, level / s->slope));
        return set_begin_count(s);
    }
    double places = s->alpha * n, rest = places - sum[0];
    double gap = -sum[4] - n * (1.0 - s->alpha); /* rest - T, and better where that is small */
    double u = s->cut - (fabs(gap) < 0.25 * sum[1] ? fgd_log1p(gap / sum[1]) : fgd_log(rest / sum[1]));
    u = FGD_MAX(u, 0.0); /* H is large enough at the quantile */
    if (fabs(u - s->cut) <= 0x1p-28 || (set_x(s, sum[6]) <= u && u <= set_x(s, sum[7])) || s->tries++ >= 1000)
        return set_finish_caps(s, u, sum);
    s->fast = FGD_MIN(s->fast, u);
    if (gap <= 0.0)
        s->slow = s->cut;
    double next = s->cut + (sum[0] + sum[1]) / sum[1] * fgd_log((sum[0] + sum[1]) / places);
    if (!(next > s->slow && next < s->fast))
        next = s->fast;
    return set_tilt_from(s, s->slope, next, next);
}
