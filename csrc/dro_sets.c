/* Worst cases over uncertainty sets and projections onto them: no sorting, passes over blocks of z. A pass finds a few numbers
 * in every block (dro_sets_body.h); a fold, by one caller, makes totals of them in a fixed tree and says what the next pass does.
 *
 * Linear sets (chi-squared, as ball or penalty; the Euclidean projection). The solution is c (z_i - theta)_+, c > 0. Let N, mu, V
 * be number, mean and variance of the z_i above theta, D = mu - theta, and weights sum to 1. A ball n |p|^2 <= K = 1 + 2 R that
 * binds means D = sqrt(V / (K N / n - 1)); p = (z - theta)_+ / (n unit) means D = n unit / N; of both the larger D counts. From
 * any superset of the elements above theta these formulas give a theta that is too small, so what lies below can be left out,
 * and so on until nothing does (Michelot). p_i = (1 + (z_i - mu) / D)_+ / N.
 *
 * Rounding. Everything is measured from a reference c in a unit 2^e, first from the largest z. When the mean of what is left in
 * the end is more than 16 D away, or what is left spans less than 2^-100 and not next to nothing beside D, the least of that
 * becomes c, and passes go on from z.
 * So weights do not depend on shifts and scales (bit for bit where differences of z are exact), and their sum does not suffer
 * from outliers.
 *
 * Quantile (CVaR): a histogram of the order-preserving images of the doubles as integers finds the bin of the ceil(alpha n)-th
 * largest, the next pass looks into that bin, until it holds one value: 6 passes at most, over ever fewer elements.
 */
#include "dro_sets.h"
#include "exp_scalar.h"

#define FGD_BODY "dro_sets_body.h"
#include "isa.h"

int64_t fgd_sets_blocks(int64_t n)
{
    return (n + SET_BLOCK - 1) / SET_BLOCK;
}

int64_t fgd_sets_tickets(int64_t n)
{
    return (fgd_sets_blocks(n) + SET_TICKET - 1) / SET_TICKET;
}

int64_t fgd_sets_part(void)
{
    return SET_PART;
}

int64_t fgd_sets_bins(void)
{
    return SET_BINS;
}

void fgd_sets_pass(fgd_set *s, fgd_job *job)
{
    int64_t blocks = fgd_sets_blocks(s->n), bins[SET_BINS];
    if (s->phase == SET_COUNT)
        memset(bins, 0, sizeof bins);
    for (int64_t ticket; (ticket = fgd_take(&job->next)) * SET_TICKET < blocks;)
        for (int64_t block = ticket * SET_TICKET; block < FGD_MIN(blocks, (ticket + 1) * SET_TICKET); block++) {
            int64_t lo = block * SET_BLOCK, count = FGD_MIN(SET_BLOCK, s->n - lo);
            double *part = s->part + block * SET_PART;
            switch (s->phase) {
            case SET_RANGE:
                FGD_CALL(set_range)(s, lo, count, part);
                break;
            case SET_MOMENTS:
                FGD_CALL(set_moments)(s, lo, count, part);
                break;
            case SET_TILT:
                FGD_CALL(set_tilt)(s, lo, count, part);
                break;
            case SET_COUNT:
                FGD_CALL(set_count)(s, lo, count, part, bins);
                break;
            case SET_WRITE_LINEAR:
                FGD_CALL(set_linear)(s, lo, count);
                break;
            case SET_WRITE_TILTED:
                FGD_CALL(set_tilted)(s, lo, count);
                break;
            default:
                FGD_CALL(set_sides)(s, lo, count, part);
            }
        }
    if (s->phase == SET_COUNT)
        for (int64_t b = 0; b < SET_BINS; b++)
            if (bins[b])
                __atomic_fetch_add(s->bins + b, bins[b], __ATOMIC_RELAXED);
}

/* ---- folds */

/* a := a and b. Means and squares as Chan, Golub and LeVeque do. */
static void set_merge(int phase, double *a, const double *b)
{
    if (phase == SET_RANGE) {
        double ties = (a[2] >= b[2] ? a[3] : 0.0) + (b[2] >= a[2] ? b[3] : 0.0);
        a[0] += b[0];
        a[1] = FGD_MIN(a[1], b[1]);
        a[2] = FGD_MAX(a[2], b[2]);
        a[3] = ties;
    } else if (phase == SET_MOMENTS && b[0] > 0.0) {
        double n = a[0] + b[0], step = b[1] - a[1];
        if (a[0] > 0.0) {
            a[2] = (a[2] + b[2]) + step * step * (a[0] / n * b[0]);
            a[1] += step * (b[0] / n);
        } else {
            memcpy(a + 1, b + 1, 2 * sizeof *a);
        }
        a[0] = n;
        a[3] = FGD_MIN(a[3], b[3]);
    } else if (phase == SET_TILT) {
        for (int k = 0; k < 6; k++)
            a[k] += b[k];
        a[6] = FGD_MAX(a[6], b[6]);
        a[7] = FGD_MIN(a[7], b[7]);
    } else if (phase == SET_WRITE_SIDES) {
        a[0] += b[0];
    }
}

/* The parts of `count` blocks as one, pairs of halves. */
static void set_total(const fgd_set *s, int64_t block, int64_t count, double *sum)
{
    double second[SET_PART];
    if (count == 1) {
        memcpy(sum, s->part + block * SET_PART, sizeof second);
        return;
    }
    set_total(s, block, count / 2, sum);
    set_total(s, block + count / 2, count - count / 2, second);
    set_merge(s->phase, sum, second);
}

/* Bins for the elements from `least` to `most`. */
static int set_count_between(fgd_set *s, int64_t least, int64_t most)
{
    s->first = least;
    s->least = set_number(least);
    s->most = set_number(most);
    for (s->shift = 0; ((uint64_t)most - (uint64_t)least) >> s->shift >= SET_BINS;)
        s->shift++;
    memset(s->bins, 0, SET_BINS * sizeof *s->bins);
    s->phase = SET_COUNT;
    return 1;
}

int set_begin_count(fgd_set *s)
{
    s->wanted = FGD_MIN(FGD_MAX((int64_t)ceil(s->alpha * (double)s->n), 1), s->n);
    return set_count_between(s, set_image(s->low + 0.0), set_image(s->high + 0.0));
}

static int set_begin(fgd_set *s, const double *sum)
{
    s->bad = sum[0] != 0.0 ? 1 : s->logs && sum[1] <= 0.0 ? 2 : 0;
    if (s->bad)
        return 0;
    s->low = s->logs ? fgd_log(sum[1]) : sum[1];
    s->high = s->logs ? fgd_log(sum[2]) : sum[2];
    s->ties = sum[3];
    if (sum[1] == sum[2] || (s->logs && s->radius == 0.0)) { /* all alike */
        double each = 1.0 / (double)s->n;
        s->value = s->high;
        return set_finish_sides(s, s->high, each, each, each);
    }
    if (s->kind == SET_QUANTILE)
        return set_begin_count(s);
    set_reference(s, s->high, set_exponent(s->high, s->low));
    if (s->kind != SET_LINEAR)
        return set_begin_tilt(s);
    if (s->unit == 0.0 && (double)s->n - s->ties <= 2.0 * s->radius * s->ties)
        return set_finish_ties(s);
    s->cut = s->unit > 0.0 && s->radius == INFINITY ? FGD_MIN(-ldexp(s->unit, -s->e) * (double)s->n, -0x1p-1074) : -INFINITY;
    s->phase = SET_MOMENTS;
    return 1;
}

/* The reference `c`, which is `y` now, and all passes from z again. What theta was above, but for rounding of c, it still is. */
static int set_again(fgd_set *s, double c, double y, int32_t e)
{
    int32_t before = s->e;
    set_reference(s, c, e);
    s->cut = ldexp(s->cut - y, before - s->e) - ldexp(fabs(c) * 0x1p-51, -s->e);
    s->stored = s->store = 0;
    s->references++;
    return 1;
}

static int set_fold_linear(fgd_set *s, const double *sum)
{
    double left = sum[0], mean = sum[1], spread = sum[2] / left, low = sum[3], n = (double)s->n;
    if (left == s->ties) {
        set_finish_ties(s);
        s->value -= s->unit * ((n - left) / (2.0 * left));
        return 1;
    }
    double unit = ldexp(s->unit, -s->e) * n, narrow = left == n ? 2.0 * s->radius : (left - n + 2.0 * s->radius * left) / n;
    double deep = s->radius == INFINITY ? 0.0 : narrow > 0.0 ? sqrt(spread) / sqrt(narrow) : INFINITY;
    deep = FGD_MAX(deep, unit / left);
    deep = FGD_MIN(deep, mean - s->cut); /* theta does not go back */
    double theta = FGD_MIN(mean - deep - 0x1p-50 * fabs(mean), nextafter(s->top, -INFINITY)); /* not too high by rounding */
    double span = s->top - low, seen = 0x1p-60 * deep; /* what is smaller changes no weight */
    if (span == 0.0 && seen == 0.0) /* alike from here, but not from nearer */
        return set_again(s, s->high, s->top, s->c == s->high ? s->e - 1074 : s->e - 50);
    int far = low > theta && fabs(mean) > 16.0 * deep && s->references < 16;
    if (far || (span < 0x1p-100 && span > seen))
        return set_again(s, set_place(s, low), low, s->e + set_exponent(FGD_MAX(span, seen), 0.0));
    s->stored = s->store;
    if (low <= theta) {
        s->cut = theta;
        s->store |= left * 4.0 < n; /* once little is left, it is kept together */
        return 1;
    }
    s->base = (1.0 - s->floor) / left;
    s->mean = mean;
    s->gain = (1.0 - s->floor) / (left * deep);
    double gap = mean + (s->unit > 0.0 ? 0.5 : 1.0) * (spread / deep);
    s->value = set_place(s, s->unit > 0.0 && left < n ? gap - unit * ((n - left) / (2.0 * left * n)) : gap);
    s->phase = SET_WRITE_LINEAR;
    return 1;
}

static int set_fold_bins(fgd_set *s)
{
    int64_t bin = SET_BINS - 1, count = 0;
    while (count + s->bins[bin] < s->wanted)
        count += s->bins[bin--];
    s->wanted -= count; /* the place in this bin */
    s->over += (double)count;
    int64_t least = s->first + (int64_t)((uint64_t)bin << s->shift);
    if (s->shift > 0) {
        s->stored = 1;
        return set_count_between(s, least, FGD_MIN(set_image(s->most), least + (int64_t)(((uint64_t)1 << s->shift) - 1)));
    }
    if (s->kind == SET_CAPPED)
        return set_begin_caps(s, set_number(least));
    double places = s->alpha * (double)s->n, rest = FGD_MAX(places - s->over, 0.0);
    return set_finish_sides(s, set_number(least), 1.0 / places, rest / places / (double)s->bins[bin], 0.0);
}

int fgd_sets_fold(fgd_set *s)
{
    double sum[SET_PART];
    set_total(s, 0, fgd_sets_blocks(s->n), sum);
    switch (s->phase) {
    case SET_RANGE:
        return set_begin(s, sum);
    case SET_MOMENTS:
        return s->kind == SET_LINEAR ? set_fold_linear(s, sum) : set_fold_spread(s, sum);
    case SET_TILT:
        return s->kind == SET_TILTED ? set_fold_tilt(s, sum) : set_fold_caps(s, sum);
    case SET_COUNT:
        return set_fold_bins(s);
    case SET_WRITE_SIDES:
        if (s->kind == SET_QUANTILE)
            s->value = set_place(s, sum[0] * s->above);
    }
    return 0;
}

void fgd_sets_solve(fgd_set *s)
{
    do {
        fgd_job job = {0};
        fgd_sets_pass(s, &job);
    } while (fgd_sets_fold(s));
}
