/* The sweep's inner loops for one instruction set and one precision: VEC holds WIDTH numbers REAL, PARTS vectors are the lanes
 * of a sum, TN(name) names the functions. All exponents are in base 2. */

#include "sinkhorn_exponentials.h"

/* c += sum of factor_r e_r */
FGD_NOINLINE void TN(add)(const fgd_transport *t, int count, const REAL *factor, const REAL *e, REAL *c)
{
    const int64_t width = t->width;
    for (int64_t j = 0; j < width; j += WIDTH) {
        const REAL *at = e + j;
        VEC sum = factor[0] * *(const VEC *)at;
        if (count == 4)
            sum = (sum + factor[1] * *(const VEC *)(at + width)) +
                  (factor[2] * *(const VEC *)(at + 2 * width) + factor[3] * *(const VEC *)(at + 3 * width));
        *(VEC *)(c + j) += sum;
    }
}

/* Four rows of a sweep, or one: f, and what they add to c and to the rows' error. A row whose sum is not to be trusted, after
 * jumps of g, takes its exponentials again, the greatest of them 1. */
FGD_NOINLINE void TN(sweep_rows)(const fgd_transport *t, int count, int64_t i, REAL *e, REAL *c, double *part, const int absorb)
{
    const int64_t *row = t->row + i;
    REAL base[4] = {0}, factor[4] = {0};
    fgd_update u = {.count = count};
    for (int r = 0; r < count; r++)
        base[r] = (REAL)FN(base_two)(t->f[row[r]]);
    TN(exponentials)(t, count, row, base, e, u.sum);
    for (int again = 0;; again++) {
        int trusted = 1;
        for (int r = 0; r < count; r++)
            u.base[r] = (double)base[r] * LN2;
        FN(update)(t, row, &u);
        for (int r = 0; r < count; r++)
            if (!(u.sum[r] >= SMALL && u.sum[r] <= LARGE && u.factor[r] <= SWELL)) {
                part[t->width + 1] = INFINITY;
                trusted = again;
                if (again)
                    continue;
                REAL top = TN(top)(t, row[r]);
                base[r] = top == -INFINITY ? top : -top;
                TN(exponentials)(t, 1, row + r, base + r, e + r * t->width, u.sum + r);
            }
        if (trusted)
            break;
    }
    for (int r = 0; r < count; r++) {
        factor[r] = (REAL)u.factor[r];
        t->f[row[r]] = u.next[r];
        part[t->width] += u.error[r];
        if (absorb)
            FN(keep)(t, i + r, (const double *)(const void *)(e + r * t->width), u.factor[r], u.next[r], u.sum[r]);
    }
    TN(add)(t, count, factor, e, c);
}

static void TN(sweep_chunk)(const fgd_transport *t, int64_t lo, int64_t hi, REAL *e, double *part, const int absorb)
{
    REAL *c = e + 4 * t->width;
    int64_t i = lo;
    memset(c, 0, (size_t)t->width * sizeof *c);
    part[t->width] = part[t->width + 1] = 0.0;
    for (; i + 4 <= hi; i += 4)
        TN(sweep_rows)(t, 4, i, e, c, part, absorb);
    for (; i < hi; i++)
        TN(sweep_rows)(t, 1, i, e, c, part, absorb);
    for (int64_t j = 0; j < t->width; j++)
        part[j] = (double)c[j];
}
