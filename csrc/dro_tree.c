/* The sum tree: layout, changes, and the entry points. Descents of many queries at once are in dro_tree_body.h. */
#include "dro_draws.h"
#include "dro_tree.h"
#include "rng.h"

#define FGD_BODY "dro_tree_body.h"
#include "isa.h"

int64_t fgd_tree_layout(fgd_tree *t, int64_t n, int64_t capacity)
{
    int64_t end = 0, size = capacity;
    t->n = n;
    t->capacity = capacity;
    t->levels = 0;
    do {
        t->first[t->levels++] = end;
        size = (size + 7) / 8;
        end += 8 * size;
    } while (size > 1);
    t->first[t->levels] = end;
    return end;
}

/* ---- changes */

/* The largest weight, -0 counting as 0: NaN or Inf where any weight is no finite number of at least 0. As integers, the bits of
 * all those are above the bits of the finite numbers. */
static double fgd_tree_largest(int64_t count, const double *weight)
{
    uint64_t most = 0;
    for (int64_t j = 0; j < count; j++) {
        double w = weight[j] + 0.0;
        uint64_t bits;
        memcpy(&bits, &w, sizeof bits);
        most = bits > most ? bits : most;
    }
    double largest;
    memcpy(&largest, &most, sizeof largest);
    return largest >= 0.0 ? largest : NAN;
}

/* Nodes of one level >= 1. */
static int64_t fgd_tree_nodes(const fgd_tree *t, int64_t level)
{
    return (t->first[level] - t->first[level - 1]) / 8;
}

FGD_INLINE void fgd_tree_set(double *leaf, double weight, fgd_extremes *e)
{
    if (e && !e->stale) {
        fgd_tree_enter(e, weight);
        fgd_tree_leave(e, *leaf);
    }
    *leaf = weight;
}

/* Formula: leaf index_j = weight_j in the order of j, then every sum above a changed leaf.
 * Cost:    a cache line per leaf and level, PART leaves on a level before any goes to the next, so that misses overlap. A
 *          level with no more nodes than `count` is made anew as a whole, once: a batch of many is a rebuild. */
static void fgd_tree_write(const fgd_tree *t, int64_t count, const int64_t *index, const double *weight)
{
    enum { PART = 128 };
    double *data = t->data;
    fgd_extremes *e = t->extremes;
    int64_t whole = 1; /* the first level made anew as a whole */
    while (whole < t->levels && fgd_tree_nodes(t, whole) > count)
        whole++;
    for (int64_t start = 0; start < count; start += PART) {
        int64_t end = FGD_MIN(start + PART, count);
        for (int64_t j = start; j < end; j++)
            for (int64_t level = 0; level < whole && level < 2; level++)
                __builtin_prefetch(data + t->first[level] + (index[j] >> 3 * level), 1);
        for (int64_t j = start; j < end; j++)
            fgd_tree_set(data + index[j], weight[j] + 0.0, e);
        for (int64_t level = 1; level < whole; level++)
            FGD_CALL(tree_raise)(t, level, end - start, index + start);
    }
    for (; whole < t->levels; whole++)
        FGD_CALL(tree_raise)(t, whole, fgd_tree_nodes(t, whole), NULL);
}

/* The same where the total may overflow: then everything is taken back. */
static int fgd_tree_try(const fgd_tree *t, int64_t count, const int64_t *index, const double *weight)
{
    double *old = fgd_scratch(count * (int64_t)sizeof *old);
    int64_t *back = fgd_scratch(count * (int64_t)sizeof *back);
    int status = old && back ? FGD_TREE_FINE : FGD_TREE_MEMORY;
    if (status == FGD_TREE_FINE) {
        for (int64_t j = 0; j < count; j++) {
            back[j] = index[j];
            old[j] = t->data[index[j]];
        }
        fgd_tree_write(t, count, index, weight);
        if (fgd_tree_total(t) == INFINITY) {
            fgd_tree_write(t, count, back, old);
            status = FGD_TREE_TOTAL;
        }
    }
    free(old);
    free(back);
    return status;
}

int fgd_tree_update(const fgd_tree *t, int64_t count, const int64_t *index, const double *weight)
{
    uint64_t last = 0;
    for (int64_t j = 0; j < count; j++)
        last = (uint64_t)index[j] > last ? (uint64_t)index[j] : last;
    if (last >= (uint64_t)t->n)
        return FGD_TREE_INDEX;
    double largest = fgd_tree_largest(count, weight);
    if (!(largest < INFINITY))
        return FGD_TREE_WEIGHT;
    if (!(fgd_tree_total(t) + largest * (double)count <= 0x1p1023)) /* far from overflow, whatever is rounded */
        return fgd_tree_try(t, count, index, weight);
    fgd_tree_write(t, count, index, weight);
    return FGD_TREE_FINE;
}

int fgd_tree_update_one(const fgd_tree *t, int64_t index, double weight)
{
    if (index < 0 || index >= t->n)
        return FGD_TREE_INDEX;
    if (!(weight >= 0.0 && weight < INFINITY))
        return FGD_TREE_WEIGHT;
    double old = t->data[index];
    fgd_tree_set(t->data + index, weight + 0.0, t->extremes);
    fgd_tree_raise(t, index);
    if (fgd_tree_total(t) < INFINITY)
        return FGD_TREE_FINE;
    fgd_tree_set(t->data + index, old, t->extremes);
    fgd_tree_raise(t, index);
    return FGD_TREE_TOTAL;
}

/* The sums above leaves first .. last, anew. */
static void fgd_tree_raise_range(const fgd_tree *t, int64_t first, int64_t last)
{
    for (int64_t level = 1; level < t->levels; level++)
        for (int64_t node = first >> 3 * level; node <= last >> 3 * level; node++)
            t->data[t->first[level] + node] = fgd_tree_block_sum(fgd_tree_block(t, level, node));
}

int fgd_tree_fill(fgd_tree *t, int64_t from, int64_t count, const double *weight)
{
    if (!(fgd_tree_largest(count, weight) < INFINITY))
        return FGD_TREE_WEIGHT;
    if (count == 0)
        return FGD_TREE_FINE;
    for (int64_t j = 0; j < count; j++)
        t->data[from + j] = weight[j] + 0.0;
    fgd_tree_raise_range(t, from, from + count - 1);
    if (!(fgd_tree_total(t) < INFINITY)) {
        memset(t->data + from, 0, (size_t)count * sizeof *t->data);
        fgd_tree_raise_range(t, from, from + count - 1);
        return FGD_TREE_TOTAL;
    }
    for (int64_t j = 0; t->extremes && !t->extremes->stale && j < count; j++)
        fgd_tree_enter(t->extremes, weight[j]);
    t->n = from + count;
    return FGD_TREE_FINE;
}


/* ---- questions */

int fgd_tree_weights(const fgd_tree *t, int64_t count, const int64_t *index, double *out)
{
    for (int64_t j = 0; j < count; j++)
        if (index[j] < 0 || index[j] >= t->n)
            return FGD_TREE_INDEX;
    for (int64_t j = 0; j < count; j++)
        out[j] = t->data[index[j]];
    return FGD_TREE_FINE;
}

void fgd_tree_extremes(const fgd_tree *t)
{
    if (t->extremes->stale)
        FGD_CALL(tree_extremes)(t->data, t->n, t->extremes);
}

/* Formula: whole blocks are left to the level above; nothing is ever subtracted, so small sums beside large ones are exact to
 * a few roundings. Order: behind `lo` from left to right, before `hi` likewise with the lower levels' sum last. With lo = 0 and
 * hi = n those are the additions of the total. */
double fgd_tree_sum(const fgd_tree *t, int64_t lo, int64_t hi)
{
    double left = 0.0, right = 0.0;
    for (int64_t level = 0; lo < hi; level++) {
        const double *x = t->data + t->first[level];
        double before = 0.0;
        if (lo >> 3 == (hi - 1) >> 3) {
            for (; lo < hi; lo++)
                before += x[lo];
            return left + (before + right);
        }
        for (; lo & 7; lo++)
            left += x[lo];
        for (int64_t j = hi & ~(int64_t)7; j < hi; j++)
            before += x[j];
        right = before + right;
        lo >>= 3;
        hi >>= 3;
    }
    return left + right;
}

int64_t fgd_tree_find_one(const fgd_tree *t, double mass)
{
    return mass >= 0.0 && mass < fgd_tree_total(t) ? fgd_tree_leaf(t, mass) : -1;
}

int64_t fgd_tree_find(const fgd_tree *t, int64_t count, const double *mass, int64_t *out)
{
    double total = fgd_tree_total(t);
    int64_t outside = 0;
    for (int64_t j = 0; j < count; j++)
        outside += !(mass[j] >= 0.0 && mass[j] < total);
    if (!outside)
        FGD_CALL(tree_find)(t, count, mass, out);
    return outside;
}

/* ---- draws */

int fgd_tree_sample(const fgd_tree *t, uint64_t seed, uint64_t drawn, int method, int64_t count, int64_t *out)
{
    if (fgd_tree_total(t) == 0.0)
        return -1;
    FGD_CALL(tree_sample)(t, seed, drawn, method, count, out);
    return 0;
}

int64_t fgd_tree_sample_one(const fgd_tree *t, uint64_t seed, uint64_t drawn)
{
    double total = fgd_tree_total(t), mass = fgd_uniform(seed, 0, drawn) * total;
    if (total == 0.0)
        return -1;
    return fgd_tree_leaf(t, mass < total ? mass : fgd_tree_below(total));
}

/* Formula: successive draws, a drawn leaf's weight is 0 for the later ones; then all are put back. Sums are made from their
 * children, so the tree ends as it was, to the bit. Cost: one descent and one rise, one after the other, a draw. */
int64_t fgd_tree_sample_distinct(const fgd_tree *t, uint64_t seed, uint64_t drawn, int64_t count, int64_t *out)
{
    double *old = fgd_scratch(count * (int64_t)sizeof *old);
    if (!old)
        return -1;
    int64_t found = 0;
    for (int64_t leaf; found < count; found++) {
        leaf = fgd_tree_sample_one(t, seed, drawn + (uint64_t)found);
        if (leaf < 0)
            break;
        out[found] = leaf;
        old[found] = t->data[leaf];
        t->data[leaf] = 0.0;
        fgd_tree_raise(t, leaf);
    }
    fgd_tree same = *t;
    same.extremes = NULL; /* no weight has changed for them */
    fgd_tree_write(&same, found, out, old);
    free(old);
    return found;
}
