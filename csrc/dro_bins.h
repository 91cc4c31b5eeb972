/* Bins of the active elements by z, for sums of functions of z that the elements' number does not slow down.
 *
 * Layout:  one array, bin after bin, lowest first, in any order within a bin: an element changes bins by one swap at each bin
 *          between. Each bin has its number of elements and sums of the powers of tau, 0 <= tau < 1 their places in the bin.
 * Cost:    16 multiply-adds for each element that comes or goes, and a swap for each bin that it passes.
 * Order:   moments are carried along and made anew, in the array's order, once as many elements have left a bin as are in it.
 */
#ifndef FGD_DRO_BINS_H
#define FGD_DRO_BINS_H

#include "dro_api.h"
#include "simd.h"

enum { FGD_BINS = 512, FGD_MOMENTS = 16, FGD_SLIDE = 64 };

FGD_INLINE int64_t fgd_bin_of(const fgd_kl *w, double z)
{
    int64_t bin = (int64_t)(z / w->width) - w->base;
    return FGD_MAX(bin, (int64_t)0);
}

FGD_INLINE double fgd_bin_edge(const fgd_kl *w, int64_t bin) /* its lower one */
{
    return w->width * (double)(w->base + bin);
}

FGD_INLINE int64_t fgd_bin_size(const fgd_kl *w, int64_t bin)
{
    return w->start[bin + 1] - w->start[bin];
}

FGD_INLINE int fgd_bin_measured(const fgd_kl *w, int64_t bin)
{
    return bin > 0 || w->base == 0;
}

FGD_INLINE void fgd_bin_weigh(fgd_kl *w, int64_t bin, double z, double sign)
{
    double tau = z / w->width - (double)(w->base + bin), power = sign, *moment = w->moment[bin];
    for (int j = 0; j < FGD_MOMENTS; j++) {
        moment[j] += power;
        power *= tau;
    }
}

static void fgd_bin_measure(fgd_kl *w, int64_t bin)
{
    memset(w->moment[bin], 0, sizeof w->moment[bin]);
    w->taken[bin] = 0;
    if (fgd_bin_measured(w, bin))
        for (int64_t k = w->start[bin]; k < w->start[bin + 1]; k++)
            fgd_bin_weigh(w, bin, w->z[w->item[k]], 1.0);
}

FGD_INLINE void fgd_bin_put(fgd_kl *w, int64_t slot, int32_t item)
{
    w->item[slot] = item;
    w->slot[item] = (int32_t)slot + 1;
}

/* ---- the heap in the lowest bin: slot 0 is its root, slots 4 k + 1 .. 4 k + 4 are the children of slot k */

static void fgd_bin_sift_down(fgd_kl *w, int64_t slot, int32_t item)
{
    int64_t size = w->start[w->heaped + 1];
    double z = w->z[item];
    for (int64_t child; (child = 4 * slot + 1) < size;) {
        int64_t end = FGD_MIN(child + 4, size), least = child;
        for (int64_t k = child + 1; k < end; k++)
            if (w->z[w->item[k]] < w->z[w->item[least]])
                least = k;
        if (z <= w->z[w->item[least]])
            break;
        fgd_bin_put(w, slot, w->item[least]);
        slot = least;
    }
    fgd_bin_put(w, slot, item);
}

static void fgd_bin_sift_up(fgd_kl *w, int64_t slot, int32_t item)
{
    double z = w->z[item];
    for (int64_t parent; slot > 0 && z < w->z[w->item[parent = (slot - 1) / 4]]; slot = parent)
        fgd_bin_put(w, slot, w->item[parent]);
    fgd_bin_put(w, slot, item);
}

static void fgd_bin_heap(fgd_kl *w, int64_t bin)
{
    w->heaped = bin;
    for (int64_t k = (fgd_bin_size(w, bin) + 2) / 4; k-- > 0;)
        fgd_bin_sift_down(w, k, w->item[k]);
}

/* ---- elements come and go */

/* The last slot of bin `from` is free: the hole moves up and becomes the first slot of bin `to`, or for top + 1 the one behind
 * all bins. */
FGD_INLINE int64_t fgd_bin_raise(fgd_kl *w, int64_t from, int64_t to)
{
    int64_t hole = --w->start[from + 1];
    for (int64_t bin = from + 1; bin < to; bin++) {
        int64_t last = --w->start[bin + 1];
        if (last != hole)
            fgd_bin_put(w, hole, w->item[last]);
        hole = last;
    }
    return hole;
}

/* The element in `slot` leaves its bin for bin `to` above it, top + 1: for none. Returns the slot it left free there. */
static int64_t fgd_bin_leave(fgd_kl *w, int64_t bin, int64_t slot, double z, int64_t to)
{
    if (fgd_bin_measured(w, bin)) {
        fgd_bin_weigh(w, bin, z, -1.0);
        w->taken[bin]++;
    }
    int64_t last = w->start[bin + 1] - 1;
    int32_t moved = w->item[last];
    int64_t hole = fgd_bin_raise(w, bin, to);
    if (slot != last) {
        if (bin == w->heaped) {
            if (slot > 0 && w->z[moved] < w->z[w->item[(slot - 1) / 4]])
                fgd_bin_sift_up(w, slot, moved);
            else
                fgd_bin_sift_down(w, slot, moved);
        } else {
            fgd_bin_put(w, slot, moved);
        }
    }
    if (fgd_bin_size(w, bin) == 0 && bin == w->heaped)
        w->heaped = -1;
    if (w->taken[bin] > 64 + fgd_bin_size(w, bin))
        fgd_bin_measure(w, bin);
    return hole;
}

/* Make room for bin `bin`, beyond the last: the lowest bins become one. */
static void fgd_bin_slide(fgd_kl *w, int64_t bin)
{
    int64_t by = FGD_MIN(bin - FGD_BINS + 1 + FGD_SLIDE, w->top), kept = w->top - by; /* bins 1 .. kept are left */
    if (bin - FGD_BINS + 1 > w->top) { /* so far beyond that all are low */
        w->base += bin - 1;
        kept = 0;
    } else {
        w->base += by;
    }
    int64_t first = w->top + 1 - kept;
    w->start[0] = 0;
    memmove(w->start + 1, w->start + first, (size_t)(kept + 1) * sizeof *w->start);
    memmove(w->moment + 1, w->moment + first, (size_t)kept * sizeof *w->moment);
    memmove(w->taken + 1, w->taken + first, (size_t)kept * sizeof *w->taken);
    w->top = kept;
    w->heaped = -1;
    fgd_bin_measure(w, 0);
}

/* The bin of z, which is there then. */
static int64_t fgd_bin_reach(fgd_kl *w, double z)
{
    int64_t bin = fgd_bin_of(w, z);
    if (bin >= FGD_BINS) {
        fgd_bin_slide(w, bin);
        bin = fgd_bin_of(w, z);
    }
    while (w->top < bin) {
        w->top++;
        w->start[w->top + 1] = w->active;
        w->taken[w->top] = 0;
        memset(w->moment[w->top], 0, sizeof w->moment[w->top]);
    }
    return bin;
}

/* An element with that z goes into the free slot behind the last one of its bin. */
FGD_INLINE void fgd_bin_settle(fgd_kl *w, int64_t bin, int64_t slot, int32_t item)
{
    if (bin == w->heaped)
        fgd_bin_sift_up(w, slot, item);
    else
        fgd_bin_put(w, slot, item);
    if (fgd_bin_measured(w, bin))
        fgd_bin_weigh(w, bin, w->z[item], 1.0);
}

/* An element becomes active. */
static void fgd_bin_add(fgd_kl *w, int32_t item, double z)
{
    int64_t to = fgd_bin_reach(w, z), hole = w->active++;
    for (int64_t bin = w->top; bin > to; bin--) {
        int64_t first = w->start[bin];
        w->start[bin + 1]++;
        if (first != hole)
            fgd_bin_put(w, hole, w->item[first]);
        hole = first;
    }
    w->start[to + 1]++;
    if (to < w->heaped)
        w->heaped = -1;
    w->z[item] = z;
    fgd_bin_settle(w, to, hole, item);
}

/* An active element's z rises. */
static void fgd_bin_lift(fgd_kl *w, int32_t item, double z)
{
    int64_t to = fgd_bin_reach(w, z), from = fgd_bin_of(w, w->z[item]);
    int64_t hole = fgd_bin_leave(w, from, w->slot[item] - 1, w->z[item], to);
    if (to == from)
        hole = w->start[to + 1]++;
    w->z[item] = z;
    fgd_bin_settle(w, to, hole, item);
}

/* The active element in that slot of that bin joins the floor. */
static void fgd_bin_drop(fgd_kl *w, int64_t bin, int64_t slot)
{
    int32_t item = w->item[slot];
    fgd_bin_leave(w, bin, slot, w->z[item], w->top + 1);
    w->active--;
    w->slot[item] = 0;
    w->z[item] = 0.0;
}

/* Bins twice as wide, two of the old in each: tau' = (tau + odd) / 2. For base == 0. */
static void fgd_bin_widen(fgd_kl *w)
{
    int64_t bins = w->top / 2 + 1;
    for (int64_t bin = 0; bin < bins; bin++) {
        double sum[FGD_MOMENTS] = {0};
        int64_t end = FGD_MIN(2 * bin + 1, w->top);
        int64_t taken = 0;
        for (int64_t old = 2 * bin; old <= end; old++) {
            double m[FGD_MOMENTS], scale = 1.0;
            memcpy(m, w->moment[old], sizeof m);
            if (old & 1)
                for (int k = 1; k < FGD_MOMENTS; k++) /* the triangle of binomials, by sums: m_j = sum of (tau + 1)^j */
                    for (int j = FGD_MOMENTS - 1; j >= k; j--)
                        m[j] += m[j - 1];
            for (int j = 0; j < FGD_MOMENTS; j++, scale *= 0.5)
                sum[j] += scale * m[j];
            taken += w->taken[old];
        }
        memcpy(w->moment[bin], sum, sizeof sum);
        w->taken[bin] = taken;
        w->start[bin] = w->start[2 * bin];
    }
    w->start[bins] = w->active;
    w->top = bins - 1;
    w->width *= 2.0;
    w->heaped = -1;
}

#endif
