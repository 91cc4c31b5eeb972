/* The sweep's inner loops for one instruction set and one precision: VEC holds WIDTH numbers REAL, PARTS vectors are the lanes
 * of a sum, TN(name) names the functions. All exponents are in base 2. */

/* 2^v, exactly 0 below 2^LEAST, 2^GREATEST at most; 0 for NaN.
 *
 * v = k + j / 8 + r with |r| <= 1/16, exactly: adding 1.5 * 2^(digits - 3) rounds v to eighths, which then stand in the last bits
 * as 8 k + j. 2^r is a polynomial, 1 exactly at 0 (for doubles 10 terms fewer would not do without the eighths); 2^(j/8) comes
 * from a table whose entries lack j, so that adding 8 k + j at the exponent's place makes it 2^(k + j/8).
 * Relative error: 2 units in the last place. */
FGD_INLINE VEC TN(exp2)(VEC v)
{
    const REAL shift = SHIFT;
    v = TN(smaller)(v, ALL(GREATEST));
    VEC shifted = v + shift, r = v - (shifted - shift);
    INT n = (INT)shifted;
    VEC scale = (VEC)(TN(eighth)(n) + (n << PLACE));
    return TN(kept)(scale * TN(near_zero)(r), v);
}

/* e = 2^(base_r + g - K) for `count` rows and the sums over their columns; what e has beyond column m is 0. */
FGD_INLINE void TN(exponentials_of)(const fgd_transport *t, const int kind, const int count, const int64_t *row, const REAL *base,
                                    REAL *e, double *sum)
{
    const REAL scale = (REAL)(t->scale * LOG2E), *g = (const REAL *)t->shifts;
    const int64_t width = t->width;
    VEC lanes[4][PARTS] = {{{0}}};
    for (int64_t j = 0; j < t->m; j += WIDTH * PARTS)
        for (int64_t p = 0; p < PARTS; p++) {
            int64_t at = j + p * WIDTH;
            VEC shift = *(const VEC *)(g + at);
            for (int r = 0; r < count; r++) {
                VEC v = TN(exp2)((base[r] + shift) - scale * TN(costs)(t, kind, row[r], at));
                lanes[r][p] += v;
                *(VEC *)(e + r * width + at) = v;
            }
        }
    for (int r = 0; r < count; r++)
        sum[r] = TN(total)(lanes[r]);
}

/* .. for four rows, or for one. */
FGD_NOINLINE void TN(exponentials)(const fgd_transport *t, int count, const int64_t *row, const REAL *base, REAL *e, double *sum)
{
    if (count == 4)
        SINKHORN_KINDS(t->kind, TN(exponentials_of)(t, kind, 4, row, base, e, sum));
    else
        SINKHORN_KINDS(t->kind, TN(exponentials_of)(t, kind, 1, row, base, e, sum));
}

/* The greatest g_j - K_ij of a row. */
FGD_INLINE REAL TN(top_of)(const fgd_transport *t, const int kind, int64_t row)
{
    const REAL scale = (REAL)(t->scale * LOG2E), *g = (const REAL *)t->shifts;
    VEC least = ALL(INFINITY);
    for (int64_t j = 0; j < t->m; j += WIDTH)
        least = TN(smaller)(scale * TN(costs)(t, kind, row, j) - *(const VEC *)(g + j), least);
    REAL top = -least[0];
    for (int l = 1; l < WIDTH; l++)
        top = FGD_MAX(top, -least[l]);
    return top;
}

FGD_NOINLINE REAL TN(top)(const fgd_transport *t, int64_t row)
{
    REAL top = 0;
    SINKHORN_KINDS(t->kind, top = TN(top_of)(t, kind, row));
    return top;
}

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
