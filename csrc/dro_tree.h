/* Sums in a tree: n weights, blocks of 8 children, one cache line a block.
 *
 * Layout:  level 0 are the leaves; level l + 1 has one node for each block of 8 nodes of level l; the top level is one block.
 *          Each level is padded with zeros to whole blocks: 9.2 bytes a leaf, and some lines.
 * Formula: a node is ((c_0 + c_1) + c_2) + .. + c_7 of its block; the total is that sum of the top block. Sums are always made
 *          anew from the children, never corrected by differences: nothing drifts, and the order of updates leaves no trace.
 *          Zeros behind the last leaf change no bit, so neither does room that is not in use.
 * Draw:    0 <= mass < total. In a block the first child with mass < c_0 + .. + c_j takes it; the sum before that child is
 *          subtracted, and what is left is kept below c_j, whatever was rounded. A child of weight 0 is thus never entered.
 */
#ifndef FGD_DRO_TREE_H
#define FGD_DRO_TREE_H

#include "dro_api.h"
#include "simd.h"

/* The block whose sum is node `node` of level `level` >= 1; level t->levels: the block whose sum is the total. */
FGD_INLINE double *fgd_tree_block(const fgd_tree *t, int64_t level, int64_t node)
{
    return t->data + t->first[level - 1] + 8 * node;
}

FGD_INLINE double fgd_tree_block_sum(const double *c)
{
    return ((((((c[0] + c[1]) + c[2]) + c[3]) + c[4]) + c[5]) + c[6]) + c[7];
}

FGD_INLINE double fgd_tree_total(const fgd_tree *t)
{
    return fgd_tree_block_sum(fgd_tree_block(t, t->levels, 0));
}

/* The next number below x > 0. */
FGD_INLINE double fgd_tree_below(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits--;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The child that *mass falls on, and what is left of it there. Sums never fall from left to right: counting those that are
 * at most the mass finds the child without a branch, inside the block whatever it holds. */
FGD_INLINE int64_t fgd_tree_child(const double *c, double *mass)
{
    double before[8] = {0.0};
    int64_t child = 0;
    for (int k = 0; k < 7; k++) {
        before[k + 1] = before[k] + c[k];
        child += *mass >= before[k + 1];
    }
    double left = *mass - before[child], most = fgd_tree_below(c[child]);
    *mass = left < most ? left : most;
    return child;
}

/* The leaf that 0 <= mass < total falls on. */
FGD_INLINE int64_t fgd_tree_leaf(const fgd_tree *t, double mass)
{
    int64_t node = 0;
    for (int64_t level = t->levels; level > 0; level--)
        node = 8 * node + fgd_tree_child(fgd_tree_block(t, level, node), &mass);
    return node;
}

/* A weight comes to the leaves, or leaves them: what that does to the extremes. */
FGD_INLINE void fgd_tree_enter(fgd_extremes *e, double weight)
{
    if (weight > 0.0 && weight <= e->least) {
        e->at_least = weight < e->least ? 1 : e->at_least + 1;
        e->least = weight;
    }
    if (weight > 0.0 && weight >= e->most) {
        e->at_most = weight > e->most ? 1 : e->at_most + 1;
        e->most = weight;
    }
}

FGD_INLINE void fgd_tree_leave(fgd_extremes *e, double weight)
{
    if (weight == e->least)
        e->stale |= --e->at_least == 0;
    if (weight == e->most && weight > 0.0)
        e->stale |= --e->at_most == 0;
}

/* The sums above one leaf, anew. */
FGD_INLINE void fgd_tree_raise(const fgd_tree *t, int64_t leaf)
{
    for (int64_t level = 1, node = leaf >> 3; level < t->levels; level++, node >>= 3)
        t->data[t->first[level] + node] = fgd_tree_block_sum(fgd_tree_block(t, level, node));
}

#endif
