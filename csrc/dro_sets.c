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
 * Quantile (CVaR): a sample brackets the ceil(alpha n)-th largest; one pass counts what is above the bracket and keeps what is in
 * it, a few per cent, where the place is found by halving the range of the doubles' images as integers. Where the sample was
 * wrong, a second pass takes what lies on the right side of the bracket instead.
 */
#include "dro_sets.h"
#include "exp_scalar.h"
#include "rng.h"

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

void fgd_sets_pass(fgd_set *s, fgd_job *job)
{
    int64_t blocks = fgd_sets_blocks(s->n);
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
                FGD_CALL(set_count)(s, lo, count, part);
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

static int set_count_between(fgd_set *s, double least, double most)
{
    s->least = least;
    s->most = most;
    s->phase = SET_COUNT;
    return 1;
}

/* The `rank`-th largest of `count` numbers in w, none of them -0; how many of them are above it, and how many equal it. w is used
 * up. Cost: a read for each halving, of which some ten see more than half of the numbers where those differ. */
static double set_select(double *w, int64_t count, int64_t rank, double least, double most, int64_t *above, int64_t *equal)
{
    int64_t low = set_image(least), high = set_image(most), left = count;
    for (*above = 0; low < high;) {
        int64_t middle = low + (int64_t)(((uint64_t)high - (uint64_t)low) / 2) + 1;
        int64_t upper = FGD_CALL(set_within)(w, count, set_number(middle), set_number(high));
        if (*above + upper >= rank) {
            low = middle;
            left = upper;
        } else {
            *above += upper;
            high = middle - 1 == -1 ? -2 : middle - 1; /* -1 is -0's */
            left -= upper;
        }
        if (2 * left <= count)
            count = FGD_CALL(set_keep)(w, count, set_number(low), set_number(high), w);
    }
    *equal = left;
    return set_number(low);
}

/* Bounds on the wanted place, from lines of 8 elements, one of each of equal parts of z: four standard deviations. */
static int set_sample(fgd_set *s)
{
    int64_t lines = FGD_MIN(s->n / 1024, 4096), part = s->n / lines, size = 8 * lines, above, equal;
    const double *wide = (const double *)s->z;
    const float *narrow = (const float *)s->z;
    for (int64_t j = 0; j < lines; j++) {
        int64_t at = j * part + (int64_t)(fgd_mix32((uint32_t)j) % (uint64_t)(part - 7));
        for (int64_t i = 0; i < 8; i++)
            s->w[8 * j + i] = (s->dtype == FGD_F64 ? wide[at + i] : (double)narrow[at + i]) + 0.0;
    }
    double expected = (double)s->wanted / (double)s->n * (double)size, margin = 4.0 * sqrt(expected) + 8.0;
    double least = s->low + 0.0, most = s->high + 0.0;
    memcpy(s->w + size, s->w, (size_t)size * sizeof *s->w);
    if (expected + margin < (double)size)
        least = set_select(s->w, size, (int64_t)(expected + margin), least, most, &above, &equal);
    if (expected - margin >= 1.0)
        most = set_select(s->w + size, size, (int64_t)(expected - margin), s->low + 0.0, most, &above, &equal);
    return set_count_between(s, least, most);
}

int set_begin_count(fgd_set *s)
{
    s->wanted = FGD_MIN(FGD_MAX((int64_t)ceil(s->alpha * (double)s->n), 1), s->n);
    return s->n < SET_SAMPLED ? set_count_between(s, s->low + 0.0, s->high + 0.0) : set_sample(s);
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

static int set_fold_count(fgd_set *s)
{
    int64_t above = 0, kept = 0, more, equal;
    for (int64_t block = 0; block < fgd_sets_blocks(s->n); block++) {
        const double *found = s->part + block * SET_PART;
        memmove(s->w + kept, s->w + block * SET_BLOCK, (size_t)found[0] * sizeof *s->w);
        kept += (int64_t)found[0];
        above += (int64_t)found[1];
    }
    if (s->wanted <= above)
        return set_count_between(s, nextafter(s->most, INFINITY), s->high + 0.0);
    if (s->wanted > above + kept)
        return set_count_between(s, s->low + 0.0, nextafter(s->least, -INFINITY));
    double quantile = set_select(s->w, kept, s->wanted - above, s->least, s->most, &more, &equal);
    if (s->kind == SET_CAPPED)
        return set_begin_caps(s, quantile);
    double places = s->alpha * (double)s->n, rest = FGD_MAX(places - (double)(above + more), 0.0);
    return set_finish_sides(s, quantile, 1.0 / places, rest / places / (double)equal, 0.0);
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
        return set_fold_count(s);
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
