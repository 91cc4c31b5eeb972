/* The chi-squared sampler: draws from p and mirror steps on p, p in a Euclidean ball around the uniform distribution.
 *
 * Formula: p_i = delta / n + (1 - delta) q_i: the floor is a mixture, and q lies in {simplex, n sum q_i^2 <= K}, K = 1 + excess.
 *          q_i = v + a (z_i - s) for the active elements and v for all others, which are said to be on the floor.
 *          A step adds gains >= 0 to some q_i, then q <- c (q - theta)_+. Over a superset of those that stay above theta, of N
 *          elements, mean mu and variance V in units of z - s,
 *              simplex alone:  t = mu - 1 / (a N)        ball:  t = mu - sqrt(V / (K N / n - 1))
 *          and the smaller one is at most the true theta: whatever it cuts off is cut off for good. Start with everything; drop
 *          the floor if t >= 0, then the smallest active elements one by one. They join the floor, whose members are equal.
 * Cost:    amortised over all drops, each of which follows a gain: O(log n) a gain for the heap and the tree; the projection is
 *          a handful of operations. A gain reads and writes a line of z, of `slot`, a few of the heap and two a tree level.
 * Order:   the sums `sum` and `square` of z are carried along and made anew in heap order now and then; the tree's as in
 *          dro_tree.h. Plain C: every machine gives the same bits.
 */
#include "dro_draws.h"
#include "dro_heap.h"

enum { GROUP = 128, AHEAD = 12 };
enum { REFUSED_INDEX = 1, REFUSED_LOSS, REFUSED_ZERO, REFUSED_OVERFLOW };

int64_t fgd_chi2_layout(fgd_chi2 *w, int64_t n)
{
    return fgd_tree_layout(&w->tree, n, n);
}

/* ---- a step */

/* The smallest active element joins the floor; `sum` and `square` are those of z - ref. */
static void fgd_drop(fgd_chi2 *w, double ref, fgd_touched *t)
{
    double z = w->key[0] - ref;
    int32_t item = w->item[0];
    w->sum -= z;
    w->square -= z * z;
    w->slot[item] = 0;
    w->tree.data[item] = 0.0;
    fgd_touch(w, t, item);
    w->active--;
    if (w->active > 0) {
        double key = w->key[w->active];
        fgd_put(w, 0, key, w->item[w->active]);
        fgd_sift_down(w, 0, key);
    } else {
        w->sum = w->square = 0.0;
    }
}

/* z becomes ((z - from) - off) a / scale, where from + off is s; then s is 0 and a is `scale`. The sums are made anew. The heap's
 * order stays. Elements that far below the scale are nothing, unless all there is. */
static void fgd_rebuild(fgd_chi2 *w, double from, double off, double scale, fgd_touched *t)
{
    double factor = w->a / scale;
    while (w->active > (w->v > 0.0 ? 0 : 1) && !(((w->key[0] - from) - off) * factor > 1e-200))
        fgd_drop(w, 0.0, t);
    w->sum = w->square = 0.0;
    for (int64_t k = 0; k < w->active; k++) {
        double z = ((w->key[k] - from) - off) * factor;
        w->key[k] = z;
        w->tree.data[w->item[k]] = z;
        w->sum += z;
        w->square += z * z;
        fgd_touch(w, t, w->item[k]);
    }
    w->a = scale;
    w->s = 0.0;
    w->age = 0;
}

/* `sum` and `square` of z - ref, ref the largest z, which is returned: gains far above 1 would drown what tells elements
 * apart. */
static double fgd_centre(fgd_chi2 *w)
{
    double ref = 0.0;
    for (int64_t k = 0; k < w->active; k++)
        ref = FGD_MAX(ref, w->key[k]);
    w->sum = w->square = 0.0;
    for (int64_t k = 0; k < w->active; k++) {
        double z = w->key[k] - ref;
        w->sum += z;
        w->square += z * z;
    }
    return ref;
}

static void fgd_gain(fgd_chi2 *w, int64_t i, double gain, fgd_touched *t)
{
    double *leaf = w->tree.data + i, old = *leaf, z = (old > 0.0 ? old : w->s) + gain / w->a;
    if (!(z > w->s)) /* no gain, or none that shows */
        return;
    *leaf = z;
    w->sum += z - old;
    w->square += z * z - old * old;
    if (w->slot[i] > 0)
        fgd_sift_down(w, w->slot[i] - 1, z);
    else
        fgd_sift_up(w, w->active++, z, (int32_t)i);
    fgd_touch(w, t, (int32_t)i);
}

/* The sum of q is 1, right after a rebuild. */
static void fgd_share(fgd_chi2 *w)
{
    if (w->v == 0.0)
        w->a = 1.0 / w->sum;
    else
        w->v = FGD_MAX((1.0 - w->a * w->sum) / (double)w->own.n, 0.0);
}

/* `ref`: 0, or what fgd_centre returned. */
static void fgd_project(fgd_chi2 *w, double ref, fgd_touched *t)
{
    double n = (double)w->own.n, centred = (double)w->active;
    for (int whole = 1;;) { /* whether the floor is in the superset */
        double m = (double)w->active, size = whole ? n : m;
        double room = whole ? w->excess : (m - n) / n + w->excess * m / n;
        double from = whole || ref == 0.0 ? w->s : ref, d = from - ref; /* z - from is what follows is about */
        double sum = w->sum - m * d, square = w->square - d * (2.0 * w->sum - m * d);
        double mean = sum / size, variance = FGD_MAX(square / size - mean * mean, 0.0);
        double simplex = mean - 1.0 / (w->a * size);
        double ball = room > 0.0 ? mean - sqrt(variance / room) : INFINITY;
        double cut = FGD_MIN(simplex, ball);
        if (whole && cut >= 0.0) {
            whole = 0;
            continue;
        }
        if (!whole && m > 1.0 && w->key[0] - from <= cut) {
            fgd_drop(w, ref, t);
            continue;
        }
        if (ref != 0.0 && m < centred) { /* what was dropped may have been far larger: its rounding must go too */
            centred = m;
            fgd_centre(w);
            continue;
        }
        if (ball < simplex)
            w->a = 1.0 / (size * (mean - cut));
        w->v = whole ? FGD_MAX((1.0 - w->a * sum) / n, 0.0) : 0.0;
        if (ref != 0.0) {
            fgd_rebuild(w, from, whole ? 0.0 : cut, 1.0, t);
            fgd_share(w);
        } else if (!whole) {
            w->s += cut;
        }
        return;
    }
}

/* An empty floor would lie below all q, far below where they differ little: the smallest element makes a new one. */
static void fgd_ground(fgd_chi2 *w, fgd_touched *t)
{
    if (w->active < w->own.n)
        return;
    w->s = w->key[0];
    fgd_drop(w, 0.0, t);
    fgd_rebuild(w, w->s, 0.0, w->a, t);
}

/* Elements that cannot be told from the floor join it. Rebuild before a underflows, differences z - s lose digits, or rounding
 * adds up. With v = 0 the active elements have all there is. */
static void fgd_refresh(fgd_chi2 *w, fgd_touched *t)
{
    double slight = 0x1p-60 * (w->v + 1.0 / (double)w->own.n);
    while (w->active > (w->v > 0.0 ? 0 : 1) && w->a * (w->key[0] - w->s) < slight)
        fgd_drop(w, 0.0, t);
    double m = (double)w->active;
    if (w->a < 1e-100 || !(w->s * m <= 4.0 * (w->sum - m * w->s)) || (w->age > 65536 && (double)w->age > 4.0 * m)) {
        fgd_rebuild(w, w->s, 0.0, 1.0, t);
        fgd_share(w);
    }
}

/* Losses to gains of q; 0 or why not. */
static int64_t fgd_gains(const fgd_chi2 *w, int64_t count, const int64_t *index, const double *loss, double *gain, double *total)
{
    const fgd_player *own = &w->own;
    double n = (double)own->n, keep = 1.0 - own->floor, low = own->floor / n + keep * w->v;
    *total = 0.0;
    for (int64_t j = 0; j < count; j++) {
        int64_t i = index[j], next = j + AHEAD < count ? index[j + AHEAD] : i;
        if (i < 0 || i >= own->n)
            return 8 * j + REFUSED_INDEX;
        if (!(loss[j] >= 0.0 && loss[j] < INFINITY))
            return 8 * j + REFUSED_LOSS;
        if (next >= 0 && next < own->n) {
            __builtin_prefetch(w->tree.data + next, 1);
            __builtin_prefetch(w->slot + next, 1);
        }
        double z = w->tree.data[i], p = low + (z > w->s ? keep * w->a * (z - w->s) : 0.0);
        if (!(p > 0.0))
            return 8 * j + REFUSED_ZERO;
        gain[j] = own->step_size * loss[j] / ((double)count * p) / keep;
        *total += gain[j];
        if (!(*total < INFINITY))
            return 8 * j + REFUSED_OVERFLOW;
    }
    return 0;
}

int64_t fgd_chi2_update(fgd_chi2 *w, int64_t count, const int64_t *index, const double *loss)
{
    double own[256], total, *gain = count <= 256 ? own : fgd_scratch(count * (int64_t)sizeof *gain);
    if (!gain)
        return -1;
    int64_t refused = fgd_gains(w, count, index, loss, gain, &total);
    if (!refused && !w->own.fixed && total > 0.0) {
        fgd_touched t = {.size = 0};
        int large = total > 1024.0;
        if (large)
            fgd_rebuild(w, w->s, 0.0, total * 0x1p-32, &t);
        for (int64_t j = 0; j < count; j++)
            fgd_gain(w, index[j], gain[j], &t);
        fgd_ground(w, &t);
        fgd_project(w, large ? fgd_centre(w) : 0.0, &t);
        w->age += count;
        fgd_refresh(w, &t);
        fgd_flush(w, &t);
    }
    if (gain != own)
        free(gain);
    return refused;
}

/* ---- draws and probabilities */

/* Draws of up to GROUP elements. */
static void fgd_draw(const fgd_chi2 *w, int64_t count, int64_t *out)
{
    double drawn[GROUP], mass[GROUP], n = (double)w->own.n, total = w->sum - (double)w->active * w->s;
    double share = w->active > 0 ? w->own.floor + (1.0 - w->own.floor) * n * w->v : 1.0; /* drawn uniformly */
    int64_t where[GROUP], leaf[GROUP], deep = 0;
    fgd_uniforms(w->own.seed, 0, w->own.drawn, count, drawn);
    for (int64_t j = 0; j < count; j++) {
        double u = drawn[j];
        if (u < share) {
            int64_t i = (int64_t)(u / share * n);
            out[j] = FGD_MIN(i, w->own.n - 1);
        } else {
            mass[deep] = (u - share) / (1.0 - share) * total;
            where[deep++] = j;
        }
    }
    FGD_CALL(chi2_descend)(w, deep, mass, leaf);
    for (int64_t j = 0; j < deep; j++)
        out[where[j]] = leaf[j];
}

void fgd_chi2_sample(fgd_chi2 *w, int64_t count, int64_t *out)
{
    for (int64_t start = 0; start < count; start += GROUP) {
        int64_t size = FGD_MIN(count - start, (int64_t)GROUP);
        fgd_draw(w, size, out + start);
        w->own.drawn += (uint64_t)size;
    }
}

int64_t fgd_chi2_sample_one(fgd_chi2 *w)
{
    int64_t drawn;
    fgd_chi2_sample(w, 1, &drawn);
    return drawn;
}

int64_t fgd_chi2_update_one(fgd_chi2 *w, int64_t index, double loss)
{
    return fgd_chi2_update(w, 1, &index, &loss);
}

void fgd_chi2_probability(const fgd_chi2 *w, int64_t count, const int64_t *index, double *out)
{
    double keep = 1.0 - w->own.floor, low = w->own.floor / (double)w->own.n + keep * w->v;
    for (int64_t j = 0; j < count; j++) {
        double z = w->tree.data[index ? index[j] : j];
        out[j] = low + (z > w->s ? keep * w->a * (z - w->s) : 0.0);
    }
}

/* n^2 / 2 times the variance of p */
double fgd_chi2_divergence(const fgd_chi2 *w)
{
    double n = (double)w->own.n, m = (double)w->active, sum = w->sum - m * w->s;
    double square = w->square - w->s * (2.0 * w->sum - m * w->s), mean = sum / n;
    double scale = (1.0 - w->own.floor) * n * w->a;
    return 0.5 * scale * scale * FGD_MAX(square / n - mean * mean, 0.0);
}

void fgd_chi2_restore(fgd_chi2 *w, int64_t active, const int32_t *item, const double *key)
{
    fgd_touched t = {.size = 0};
    w->active = active;
    for (int64_t k = 0; k < active; k++) {
        fgd_put(w, k, key[k], item[k]);
        w->tree.data[item[k]] = key[k];
        fgd_touch(w, &t, item[k]);
    }
    fgd_flush(w, &t);
}
