/* Results into the layers, for one precision. Part of a body file (isa.h); included once per precision.
 *
 * `rescue(context, column)` gives a column's value in long double when the sum in double overflowed; values beyond the dtype
 * become Inf by rounding.
 */

/* Sums start from -0, the one number that changes no other. */
FGD_INLINE void TN(start)(ACC *acc)
{
    memset(acc, 0, sizeof *acc);
    *(v8d *)acc = -(v8d){0};
    if (LANES == 16)
        ((v8d *)acc)[1] = -(v8d){0};
}

/* Write acc / divisor into `count` columns, rounded once; the first that is not finite, or -1. */
FGD_INLINE int64_t TN(store)(const ACC *acc, double divisor, char *row, int32_t dtype, int64_t column, int64_t count,
                             long double (*rescue)(const void *, int64_t), const void *context)
{
    double y[LANES] __attribute__((aligned(64)));
    v8d doubt = {0};
    int64_t broken = -1, item = fgd_itemsize(dtype);
    TN(divide)(acc, divisor, y);
    for (int l = 0; l < LANES; l += 8)
        doubt += *(v8d *)(y + l) - *(v8d *)(y + l); /* NaN where a lane is not finite */
    int fine = FN(all)(doubt == 0.0);
    for (int64_t l = 0; !fine && l < count; l++)
        if (!(fabs(y[l]) < INFINITY)) {
            y[l] = LANES == 8 ? (double)rescue(context, column + l) : y[l];
            if (y[l] != y[l])
                y[l] = NAN; /* one NaN: which operand's sign and payload survive differs between machines */
            if (broken < 0 && !(fabs(y[l]) < INFINITY))
                broken = l;
        }
    row += column * item;
    if (count == LANES && dtype == (LANES == 8 ? FGD_F64 : FGD_F32)) {
        REAL rounded[LANES];
        for (int l = 0; l < LANES; l++)
            rounded[l] = (REAL)y[l];
        memcpy(row, rounded, sizeof rounded);
    } else
        for (int64_t l = 0; l < count; l++)
            fgd_store(row + l * item, dtype, y[l]);
    return broken;
}

/* Write acc / divisor into VECTORS vectors of the precision's own dtype; 0, with nothing written, where one is not finite. Large
 * results go past the caches where they lie on a cache line; elsewhere their next lines are fetched for writing meanwhile. */
FGD_INLINE int TN(store_tile)(const ACC *acc, double divisor, char *row, int large)
{
    REAL rounded[VECTORS * LANES] __attribute__((aligned(64)));
    v8d sum = {0}; /* not finite where a quotient is not; where it merely overflows, each vector is looked at for nothing */
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
        double y[LANES] __attribute__((aligned(64)));
        TN(divide)(acc + v, divisor, y);
        for (int l = 0; l < LANES; l += 8)
            sum += *(v8d *)(y + l);
        for (int l = 0; l < LANES; l++)
            rounded[v * LANES + l] = (REAL)y[l];
    }
    if (!FN(all)(sum - sum == 0.0))
        return 0;
    if (large && (uintptr_t)row % 64 == 0)
        for (int b = 0; b < (int)sizeof rounded; b += 64)
            FN(stream)(row + b, (char *)rounded + b);
    else {
        for (int b = 0; large && b < (int)sizeof rounded; b += 64)
            __builtin_prefetch(row + sizeof rounded + b, 1);
        memcpy(row, rounded, sizeof rounded);
    }
    return 1;
}
