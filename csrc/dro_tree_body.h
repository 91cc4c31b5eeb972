/* What the sum tree does to many leaves at once, for one instruction set (isa.h): descents, sums, and a search of all leaves.
 *
 * Formula: dro_tree.h. Cost: one cache line a level and a query, all queries of a group on a level before any goes to the next:
 *          their misses overlap, and so do their chains of 8 dependent additions.
 * Order:   as the scalar descent, to the bit: lanes hold different queries, never parts of one sum.
 */
#include "dro_lanes.h"
#include "rng.h"

#define GROUP 128

#ifdef LANES
/* fgd_tree_child of LANES queries: node[j] becomes a child of it. */
FGD_INLINE void FN(children)(const double *level, int64_t *node, double *mass)
{
    BLOCKS c[8];
    FN(blocks)(level, node, c);
    FN(pick)(c, node, mass);
}
#endif

/* The leaves of up to GROUP masses, which are used up. */
FGD_INLINE void FN(descend)(const fgd_tree *t, int64_t count, double *mass, int64_t *out)
{
    memset(out, 0, (size_t)count * sizeof *out);
    for (int64_t level = t->levels; level > 0; level--) {
        const double *blocks = t->data + t->first[level - 1];
        int64_t j = 0;
#ifdef LANES
        for (; j + LANES <= count; j += LANES)
            FN(children)(blocks, out + j, mass + j);
#endif
        for (; j < count; j++)
            out[j] = 8 * out[j] + fgd_tree_child(blocks + 8 * out[j], mass + j);
        if (level > 1)
            for (j = 0; j < count; j++)
                __builtin_prefetch(t->data + t->first[level - 2] + 8 * out[j]);
    }
}

FGD_NOINLINE void FN(tree_find)(const fgd_tree *t, int64_t count, const double *mass, int64_t *out)
{
    double left[GROUP] __attribute__((aligned(64)));
    for (int64_t start = 0; start < count; start += GROUP) {
        int64_t size = FGD_MIN(count - start, GROUP);
        memcpy(left, mass + start, (size_t)size * sizeof *left);
        FN(descend)(t, size, left, out + start);
    }
}

/* u of draws `drawn` .. drawn + count - 1: the upper 53 bits of words 2 d and 2 d + 1, two draws a Philox block. Returns where
 * in `buffer` the first of them is. */
FGD_INLINE double *FN(uniforms)(const FN(fgd_philox) *p, uint64_t drawn, int64_t count, double *buffer)
{
    for (int64_t j = 0; j < count + (int64_t)(drawn & 1); j += 2 * FGD_WIDE) {
        FGD_WORDS even, odd;
        FN(fgd_philox_blocks)(p, (drawn + (uint64_t)j) / 2, &even, &odd);
        for (int k = 0; k < 2 * FGD_WIDE; k++)
            buffer[j + k] = (double)(int64_t)(((uint64_t)odd[k] << 32 | even[k]) >> 11) * 0x1p-53;
    }
    return buffer + (drawn & 1);
}

FGD_NOINLINE void FN(tree_sample)(const fgd_tree *t, uint64_t seed, uint64_t drawn, int method, int64_t count, int64_t *out)
{
    double buffer[GROUP + 1 + 2 * FGD_WIDE], mass[GROUP] __attribute__((aligned(64)));
    double total = fgd_tree_total(t), most = fgd_tree_below(total);
    FN(fgd_philox) p;
    FN(fgd_philox_start)(&p, seed, 0, FGD_STREAM_BITS);
    double shared = *FN(uniforms)(&p, drawn, 1, buffer);
    for (int64_t start = 0; start < count; start += GROUP) {
        int64_t size = FGD_MIN(count - start, GROUP);
        double *u = buffer;
        if (method != FGD_TREE_SYSTEMATIC)
            u = FN(uniforms)(&p, drawn + (uint64_t)start, size, buffer);
        for (int64_t j = 0; j < size; j++) {
            double part = method == FGD_TREE_SYSTEMATIC ? shared : u[j];
            if (method != FGD_TREE_IID)
                part = ((double)(start + j) + part) / (double)count;
            part *= total;
            mass[j] = part < most ? part : most;
        }
        FN(descend)(t, size, mass, out + start);
    }
}

/* Formula: the smallest positive and the largest leaf, and how many there are of each. The bits of numbers >= 0 are ordered as
 * the numbers, and less 1 as integers without a sign put 0 last. Cost: one read of the leaves; a second of a block of them that
 * holds an extreme. */
FGD_NOINLINE void FN(tree_extremes)(const double *leaf, int64_t count, fgd_extremes *e)
{
    fgd_extremes none = {INFINITY, 0.0, 0, 0, 0};
    *e = none;
    for (int64_t start = 0, size; start < count; start += size, leaf += size) {
        size = FGD_MIN(count - start, 1024);
        uint64_t least = UINT64_MAX, most = 0, x[1024];
        memcpy(x, leaf, (size_t)size * sizeof *x);
        for (int64_t j = 0; j < size; j++) {
            least = x[j] - 1 < least ? x[j] - 1 : least;
            most = x[j] > most ? x[j] : most;
        }
        least++;
        double low, high;
        memcpy(&low, &least, sizeof low);
        memcpy(&high, &most, sizeof high);
        if ((low > e->least && high < e->most) || most == 0)
            continue;
        for (int64_t j = 0; j < size; j++)
            fgd_tree_enter(e, leaf[j]);
    }
}

/* The sums of nodes on a level >= 1 anew: those above leaves leaf[0] .. leaf[count - 1]; all `count` where leaf is NULL. */
FGD_NOINLINE void FN(tree_raise)(const fgd_tree *t, int64_t level, int64_t count, const int64_t *leaf)
{
    const double *below = t->data + t->first[level - 1];
    double *sum = t->data + t->first[level];
    int64_t j = 0;
#ifdef LANES
    for (; j + LANES <= count; j += LANES) {
        int64_t node[LANES];
        double made[LANES];
        BLOCKS c[8];
        for (int k = 0; k < LANES; k++)
            node[k] = leaf ? leaf[j + k] >> 3 * level : j + k;
        FN(blocks)(below, node, c);
        FN(block_sums)(c, made);
        for (int k = 0; k < LANES; k++)
            sum[node[k]] = made[k];
    }
#endif
    for (; j < count; j++) {
        int64_t node = leaf ? leaf[j] >> 3 * level : j;
        sum[node] = fgd_tree_block_sum(below + 8 * node);
    }
}

#undef GROUP
#undef LANES
#undef BLOCKS
#undef FGD_WIDE
#undef FGD_QUADS
#undef FGD_WORDS
