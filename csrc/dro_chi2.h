/* The tree of the chi-squared sampler: sums of z and counts of the active elements, level by level as in dro_tree.h. */
#ifndef FGD_DRO_CHI2_H
#define FGD_DRO_CHI2_H

#include "dro_tree.h"

FGD_INLINE int32_t *fgd_counts(const fgd_chi2 *w, int64_t level)
{
    return w->count + (w->tree.first[level] - w->tree.first[1]);
}

/* Sum and count of one node of a level >= 1, anew. */
FGD_INLINE void fgd_chi2_raise_one(const fgd_chi2 *w, int64_t level, int64_t node)
{
    const double *c = fgd_tree_block(&w->tree, level, node);
    int32_t active = 0;
    if (level == 1)
        for (int k = 0; k < 8; k++)
            active += c[k] != 0.0;
    else
        for (int k = 0; k < 8; k++)
            active += fgd_counts(w, level - 1)[8 * node + k];
    fgd_counts(w, level)[node] = active;
    w->tree.data[w->tree.first[level] + node] = fgd_tree_block_sum(c);
}

/* A child with active elements of a block whose weights are all rounded to 0. */
FGD_INLINE int64_t fgd_chi2_any_child(const fgd_chi2 *w, int64_t level, int64_t node)
{
    const double *c = fgd_tree_block(&w->tree, level, node);
    int64_t k = 0;
    while (k < 7 && !(level == 1 ? c[k] > 0.0 : fgd_counts(w, level - 1)[8 * node + k] > 0))
        k++;
    return 8 * node + k;
}

/* The child of block `node` at `level` that *mass falls on. Rounding may put a mass at the block's end or make all its weights 0,
 * but an element that is not active is never reached: its weight is exactly 0, and of a block with active ones some child has
 * a count. */
FGD_INLINE int64_t fgd_chi2_child(const fgd_chi2 *w, int64_t level, int64_t node, double *mass)
{
    const double *c = fgd_tree_block(&w->tree, level, node);
    double weight[8]; /* sum (z - s) over the active elements of each child */
    for (int k = 0; k < 8; k++) {
        double x = c[k] - (level == 1 ? w->s : w->s * (double)fgd_counts(w, level - 1)[8 * node + k]);
        weight[k] = x > 0.0 ? x : 0.0;
    }
    double total = fgd_tree_block_sum(weight);
    if (!(total > 0.0)) {
        *mass = 0.0;
        return fgd_chi2_any_child(w, level, node);
    }
    if (*mass >= total)
        *mass = fgd_tree_below(total);
    return 8 * node + fgd_tree_child(weight, mass);
}

#endif
