/* The Kullback-Leibler sampler: draws from p and entropic mirror steps on p, p in a KL ball around the uniform distribution.
 *
 * Formula: p_i = exp(log_v + x_i), x_i = a (z_i - s) for the active elements and 0 for all others, which are said to be on the
 *          floor. A step adds gains >= 0 to some x_i, then p <- max(delta / n, C p^gamma), 0 < gamma <= 1; gamma is 1 if that is
 *          in the ball, and else where D = R. Take gamma and C for a superset of those above delta / n, the others having that:
 *          whatever they put at or below delta / n is there in the end too. (Of two such curves of x with one sum, the steeper
 *          one has more entropy to lose: what is cut too early would need a curve both steeper and of the same D.) Start with
 *          everything; drop the floor, then the smallest elements.
 * Cost:    a projection is some Newton steps of 50 operations a bin, whatever n is; an element is looked at again only when it
 *          joins the floor, or once in 60 doublings of the bins' width. Draws: O(1), rejection within a bin, 1.65 tries at most.
 * Order:   bins ascending. Plain C and own exponentials: every machine gives the same bits.
 */
#include "dro_draws.h"
#include "dro_tilt.h"

enum { GROUP = 64, AHEAD = 12 };
enum { REFUSED_INDEX = 1, REFUSED_LOSS, REFUSED_ZERO };

static const double FGD_BIN = 0.5;                         /* largest width of a bin in x */
static const double FGD_RANGE = 2000.0, FGD_KEPT = 1500.0; /* if x exceeds the first, all that is lower by the second is floor */
static const double FGD_CAP = 50.0;                        /* of a gain */

/* z becomes a z, s 0 and a 1; elements that cannot be told from the floor join it; all bins are made anew. */
static void fgd_kl_rebuild(fgd_kl *w, double width)
{
    int64_t old = w->active;
    double a = w->a, s = w->s, range = a * (fgd_bin_edge(w, w->top + 1) - s), cut = range > FGD_RANGE ? range - FGD_KEPT : 0.0;
    w->log_v += cut;
    w->a = 1.0;
    w->s = 0.0;
    w->width = width;
    w->active = w->base = w->top = 0;
    w->heaped = -1;
    w->start[0] = w->start[1] = 0;
    fgd_bin_measure(w, 0);
    for (int64_t k = 0; k < old; k++) { /* those already placed fill no slot that is still to be read */
        int32_t item = w->item[k];
        double z = a * (w->z[item] - s) - cut;
        w->slot[item] = 0;
        w->z[item] = 0.0;
        if (z > 0x1p-60)
            fgd_bin_add(w, item, z);
    }
}

/* gamma with D = R, or 1 where D <= R there. Newton's method for log D as a function of log gamma, which is nearly a line, kept
 * between bounds; `gamma` is where to start. */
static double fgd_kl_solve(fgd_kl *w, int whole, double gamma, fgd_tilt *t)
{
    double low = 0.0, high = 2.0; /* 2: nothing is known of 1 yet */
    for (int step = 0; step < 200; step++) {
        double y = gamma * w->a * w->width;
        if (y > FGD_BIN || (w->base > 0 && y < 0.25 * FGD_BIN)) /* too wide for the series; or the lowest bin would count */
            fgd_kl_rebuild(w, FGD_BIN / gamma);
        *t = fgd_tilted(w, whole, gamma);
        if (t->divergence <= w->radius && gamma == 1.0)
            break;
        if (t->divergence <= w->radius)
            low = gamma;
        else
            high = gamma;
        if (high - low <= 0x1p-50 * gamma)
            break;
        double ratio = fgd_log(FGD_MAX(t->divergence, 0.0) / w->radius);
        double by = gamma * fgd_expm1(-ratio * t->divergence / (gamma * t->slope)), next = gamma + by, size = fabs(by);
        if (size <= 0x1p-27 * gamma && next <= 1.0) { /* what the next step would find is below rounding */
            t->log_c -= by * t->mean;
            return next;
        }
        if (high == 2.0 && next >= 1.0)
            next = 1.0;
        gamma = next > low && next < high ? next : 0.5 * (low + FGD_MIN(high, 1.0));
    }
    return gamma;
}

/* All active elements with z <= cut join the floor; how many there were. */
static int64_t fgd_kl_drop(fgd_kl *w, double cut)
{
    int64_t before = w->active;
    for (int64_t bin = 0; bin <= w->top; bin++) {
        if (bin > 0 && fgd_bin_edge(w, bin) > cut)
            break;
        int all = fgd_bin_edge(w, bin + 1) <= cut;
        if (!all && w->heaped != bin && fgd_bin_size(w, bin) > 0)
            fgd_bin_heap(w, bin);
        while (fgd_bin_size(w, bin) > 0 && (all || w->z[w->item[0]] <= cut))
            fgd_bin_drop(w, bin, all ? w->start[bin + 1] - 1 : 0);
        if (fgd_bin_size(w, bin) > 0)
            break;
    }
    return before - w->active;
}

static void fgd_kl_project(fgd_kl *w)
{
    double log_floor = fgd_log(w->own.floor) - fgd_log((double)w->own.n), gamma = 1.0;
    for (int whole = 1;;) {
        fgd_tilt t;
        gamma = fgd_kl_solve(w, whole, gamma, &t);
        if (whole && t.log_c <= log_floor && w->active > 0) {
            whole = 0;
            continue;
        }
        w->log_v = whole ? t.log_c : log_floor;
        if (!whole) {
            double cut = w->s + (log_floor - t.log_c) / (gamma * w->a);
            if (fgd_kl_drop(w, cut) > 0)
                continue;
            w->s = FGD_MAX(cut, w->s);
        }
        w->a *= gamma;
        return;
    }
}

/* An empty floor would lie below all p, far below where they differ little: the smallest element makes a new one. */
static void fgd_kl_ground(fgd_kl *w)
{
    if (w->active < w->own.n)
        return;
    int64_t bin = 0;
    while (fgd_bin_size(w, bin) == 0)
        bin++;
    if (w->heaped != bin)
        fgd_bin_heap(w, bin);
    w->s = w->z[w->item[0]];
    fgd_bin_drop(w, bin, 0);
    fgd_kl_rebuild(w, FGD_BIN);
}

/* Rebuild before differences z - s lose digits or z spreads too far, and keep the bins as wide as the series allow. */
static void fgd_kl_refresh(fgd_kl *w)
{
    while (w->top > 0 && fgd_bin_size(w, w->top) == 0)
        w->top--;
    double range = w->a * (fgd_bin_edge(w, w->top + 1) - w->s);
    if (w->width >= 0x1p60 || w->a * w->s > 16.0 || range > FGD_RANGE)
        fgd_kl_rebuild(w, FGD_BIN);
    while (w->a * w->width <= 0.5 * FGD_BIN) {
        if (w->base > 0)
            fgd_kl_rebuild(w, FGD_BIN);
        else
            fgd_bin_widen(w);
    }
}

/* What draws need: bounds on the weights, bin by bin, beside the uniform part n v. An element's weight there is p_i - v. */
static void fgd_kl_bound(fgd_kl *w)
{
    double v = fgd_exp(w->log_v);
    w->share[0] = v * (double)w->own.n;
    for (int64_t bin = 0; bin <= w->top; bin++) {
        double x = w->a * (fgd_bin_edge(w, bin + 1) - w->s), size = (double)fgd_bin_size(w, bin);
        w->share[bin + 1] = w->share[bin];
        if (size > 0.0) {
            w->ceiling[bin] = w->log_v > -600.0 ? v * fgd_expm1(x) : fgd_exp(w->log_v + x);
            w->share[bin + 1] += w->ceiling[bin] * size;
        }
    }
}

/* ---- a step */

static double fgd_kl_p(const fgd_kl *w, int64_t i)
{
    double z = w->z[i];
    return fgd_exp(z > w->s ? w->log_v + w->a * (z - w->s) : w->log_v);
}

/* Losses to gains of x, and each element's z before the step, 0 on the floor; 0 or why not. */
static int64_t fgd_kl_gains(const fgd_kl *w, int64_t count, const int64_t *index, const double *loss, double *gain, double *old)
{
    for (int64_t j = 0; j < count; j++) {
        int64_t i = index[j], next = j + AHEAD < count ? index[j + AHEAD] : i;
        if (i < 0 || i >= w->own.n)
            return 8 * j + REFUSED_INDEX;
        if (!(loss[j] >= 0.0 && loss[j] < INFINITY))
            return 8 * j + REFUSED_LOSS;
        if (next >= 0 && next < w->own.n) {
            __builtin_prefetch(w->z + next, 1);
            __builtin_prefetch(w->slot + next, 1);
        }
        double p = fgd_kl_p(w, i);
        if (!(p > 0.0))
            return 8 * j + REFUSED_ZERO;
        double g = w->own.step_size * loss[j] / ((double)count * p);
        gain[j] = FGD_MIN(g, FGD_CAP);
        old[j] = w->z[i];
    }
    return 0;
}

/* Gains of one element add up to FGD_CAP at most. */
static void fgd_kl_gain(fgd_kl *w, int64_t i, double gain, double old)
{
    double now = w->z[i], most = FGD_MAX(old, w->s) + FGD_CAP / w->a, z = FGD_MIN(FGD_MAX(now, w->s) + gain / w->a, most);
    if (!(z > FGD_MAX(now, w->s)))
        return;
    if (now > 0.0)
        fgd_bin_lift(w, (int32_t)i, z);
    else
        fgd_bin_add(w, (int32_t)i, z);
}

int64_t fgd_kl_update(fgd_kl *w, int64_t count, const int64_t *index, const double *loss)
{
    double own[512], *gain = count <= 256 ? own : fgd_scratch(2 * count * (int64_t)sizeof *gain), *old = gain + count;
    if (!gain)
        return -1;
    int64_t refused = fgd_kl_gains(w, count, index, loss, gain, old);
    if (!refused && !w->own.fixed) {
        for (int64_t j = 0; j < count; j++)
            fgd_kl_gain(w, index[j], gain[j], old[j]);
        fgd_kl_ground(w);
        fgd_kl_project(w);
        fgd_kl_refresh(w);
        fgd_kl_bound(w);
    }
    if (gain != own)
        free(gain);
    return refused;
}

/* ---- draws and probabilities */

/* Where u falls: an element for good (-1 is returned), or a bin and a slot in it. */
static int64_t fgd_kl_propose(const fgd_kl *w, double u, int64_t *place)
{
    double mass = u * w->share[w->top + 1];
    int64_t low = 0, high = w->top + 1; /* the first with mass < share, or the last one in use */
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (mass < w->share[middle])
            high = middle;
        else
            low = middle + 1;
    }
    double before = low > 0 ? w->share[low - 1] : 0.0, part = (mass - before) / (w->share[low] - before);
    int64_t size = low > 0 ? fgd_bin_size(w, low - 1) : w->own.n, k = (int64_t)(part * (double)size);
    *place = (low > 0 ? w->start[low - 1] : 0) + FGD_MIN(k, size - 1);
    return low - 1;
}

/* Draws of up to GROUP elements: a proposal each, and again for those refused. Try r of a draw takes streams 2 r and 2 r + 1. */
static void fgd_kl_draw(const fgd_kl *w, int64_t count, int64_t *out)
{
    double u[GROUP], accept[GROUP];
    int64_t bin[GROUP], open[GROUP], left = count;
    for (int64_t j = 0; j < count; j++)
        open[j] = j;
    for (uint32_t try = 0; left > 0; try++) {
        fgd_uniforms(w->own.seed, 2 * try, w->own.drawn, count, u);
        for (int64_t k = 0; k < left; k++) {
            int64_t j = open[k];
            bin[j] = fgd_kl_propose(w, u[j], out + j);
            if (bin[j] >= 0)
                __builtin_prefetch(w->item + out[j]);
        }
        for (int64_t k = 0; k < left; k++) {
            int64_t j = open[k];
            if (bin[j] >= 0) {
                out[j] = w->item[out[j]];
                __builtin_prefetch(w->z + out[j]);
            }
        }
        int64_t again = 0;
        fgd_uniforms(w->own.seed, 2 * try + 1, w->own.drawn, count, accept);
        for (int64_t k = 0; k < left; k++) {
            int64_t j = open[k];
            if (bin[j] < 0)
                continue;
            double x = w->a * (w->z[out[j]] - w->s);
            double weight = w->log_v > -600.0 ? w->share[0] / (double)w->own.n * fgd_expm1(x) : fgd_exp(w->log_v + x);
            if (!(accept[j] * w->ceiling[bin[j]] < weight))
                open[again++] = j;
        }
        left = again;
    }
}

void fgd_kl_sample(fgd_kl *w, int64_t count, int64_t *out)
{
    for (int64_t start = 0; start < count; start += GROUP) {
        int64_t size = FGD_MIN(count - start, (int64_t)GROUP);
        fgd_kl_draw(w, size, out + start);
        w->own.drawn += (uint64_t)size;
    }
}

int64_t fgd_kl_sample_one(fgd_kl *w)
{
    int64_t drawn;
    fgd_kl_sample(w, 1, &drawn);
    return drawn;
}

int64_t fgd_kl_update_one(fgd_kl *w, int64_t index, double loss)
{
    return fgd_kl_update(w, 1, &index, &loss);
}

void fgd_kl_probability(const fgd_kl *w, int64_t count, const int64_t *index, double *out)
{
    for (int64_t j = 0; j < count; j++)
        out[j] = fgd_kl_p(w, index ? index[j] : j);
}

/* x is 0 on the floor wherever that is: as if all were free */
double fgd_kl_divergence(const fgd_kl *w)
{
    return FGD_MAX(fgd_tilted(w, 1, 1.0).divergence, 0.0);
}

void fgd_kl_start(fgd_kl *w)
{
    w->log_v = -fgd_log((double)w->own.n);
    w->a = 1.0;
    w->width = FGD_BIN;
    w->heaped = -1;
    fgd_kl_bound(w);
}

void fgd_kl_restore(fgd_kl *w)
{
    for (int64_t k = 0; k < w->active; k++)
        w->slot[w->item[k]] = (int32_t)k + 1;
    fgd_kl_bound(w);
}
