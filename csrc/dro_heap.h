/* The active elements of the chi-squared sampler: in a heap, smallest z first, and in a tree of sums and counts of them.
 *
 * Cost:  a gain or a drop moves O(log m) entries of the heap, a line of eight keys each, and makes anew the sums and counts above
 *        its leaf, a line and half a line a level. Leaves are collected, so that their misses overlap.
 * Order: sums as in dro_tree.h.
 */
#ifndef FGD_DRO_HEAP_H
#define FGD_DRO_HEAP_H

#include "dro_chi2.h"

#define FGD_BODY "dro_chi2_body.h"
#include "isa.h"

enum { FGD_TOUCHED = 512 };

/* Leaves whose sums are to be made anew. */
typedef struct {
    int64_t size;
    int32_t leaf[FGD_TOUCHED];
} fgd_touched;

/* ---- sums and counts of active elements */

static void fgd_flush(const fgd_chi2 *w, fgd_touched *t)
{
    for (int64_t level = 1; level < w->tree.levels; level++) {
        int64_t nodes = (w->tree.first[level] - w->tree.first[level - 1]) / 8;
        if (nodes <= t->size) /* few: all of them */
            FGD_CALL(chi2_raise)(w, level, nodes, NULL);
        else
            FGD_CALL(chi2_raise)(w, level, t->size, t->leaf);
    }
    t->size = 0;
}

static void fgd_touch(const fgd_chi2 *w, fgd_touched *t, int32_t leaf)
{
    if (t->size == FGD_TOUCHED)
        fgd_flush(w, t);
    t->leaf[t->size++] = leaf;
}

/* ---- the heap. The children of slot k are slots 8 k + 1 .. 8 k + 8; `key` begins 7 doubles behind a line, so that they share
 * one. */

static void fgd_put(const fgd_chi2 *w, int64_t slot, double key, int32_t item)
{
    w->key[slot] = key;
    w->item[slot] = item;
    w->slot[item] = (int32_t)slot + 1;
}

/* The key in `slot` grows to `key`. Most are leaves and stay: then no other line is written. */
static void fgd_sift_down(const fgd_chi2 *w, int64_t slot, double key)
{
    int64_t first = slot;
    int32_t item = 0;
    for (int64_t child; (child = 8 * slot + 1) < w->active;) {
        int64_t end = FGD_MIN(child + 8, w->active), least = child;
        double smallest = w->key[child];
        for (int64_t k = child + 1; k < end; k++) {
            int less = w->key[k] < smallest;
            smallest = less ? w->key[k] : smallest;
            least = less ? k : least;
        }
        if (key <= smallest)
            break;
        if (slot == first)
            item = w->item[slot];
        fgd_put(w, slot, smallest, w->item[least]);
        slot = least;
    }
    if (slot == first)
        w->key[slot] = key;
    else
        fgd_put(w, slot, key, item);
}

static void fgd_sift_up(const fgd_chi2 *w, int64_t slot, double key, int32_t item)
{
    for (int64_t parent; slot > 0 && key < w->key[parent = (slot - 1) / 8]; slot = parent)
        fgd_put(w, slot, w->key[parent], w->item[parent]);
    fgd_put(w, slot, key, item);
}

#endif
