/* Exponentials of rows for one instruction set and one precision: VEC holds WIDTH numbers REAL, PARTS vectors are the lanes of a
 * sum, TN(name) names the functions. All exponents are in base 2. */

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
    const VEC scale = ALL((REAL)(t->scale * LOG2E));
    const REAL *g = (const REAL *)t->shifts;
    const int64_t width = t->width, whole = t->m / (WIDTH * PARTS) * (WIDTH * PARTS);
    VEC lanes[4][PARTS] = {{{0}}};
    for (int64_t j = 0; j < whole; j += WIDTH * PARTS)
#pragma GCC unroll 4
        for (int64_t p = 0; p < PARTS; p++)
#pragma GCC unroll 4
            for (int r = 0; r < count; r++) {
                int64_t at = j + p * WIDTH;
                VEC v = (base[r] + *(const VEC *)(g + at)) - scale * TN(inner_costs)(t, kind, row[r], at);
                v = TN(exp2)(v);
                lanes[r][p] += v;
                *(VEC *)(e + r * width + at) = v;
            }
    for (int64_t at = whole; at < width; at += WIDTH)
        for (int r = 0; r < count; r++) {
            VEC v = TN(exp2)((base[r] + *(const VEC *)(g + at)) - scale * TN(costs)(t, kind, row[r], at));
            lanes[r][(at - whole) / WIDTH % PARTS] += v;
            *(VEC *)(e + r * width + at) = v;
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
