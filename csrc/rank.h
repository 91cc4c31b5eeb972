/* Means over a range of ranks, coordinate by coordinate, for one precision. Part of a body file (isa.h); included once per
 * precision with REAL, LANES, LANES_OF, LOAD, LOAD_TAIL, TN as in pairwise.h, and
 *   KEY          the vector of LANES signed integers as wide as REAL
 *   SIGN_SHIFT   bits of REAL - 1
 *   MAGNITUDE    every bit but the sign
 *   INFINITE     the bits of +inf
 *
 * Formula: y_c = (s_first + .. + s_last) / divisor, s the n values of coordinate c in ascending order, where every value
 *          that is not finite counts as +inf.
 * Cost:    one read of x; `length` comparators (two min/max operations each) per LANES coordinates, in a tile of n x
 *          VECTORS vectors that stays in the first-level cache.
 * Order:   ascending rank, so the order of the vectors does not matter to a bit; in double for float, compensated
 *          (TwoSum) for double.
 *
 * Values are compared as integers: x >= 0 keeps its bits, x < 0 has all but the sign flipped. That is the order of the
 * reals with -0 before +0: no two different values ever tie, and NaN cannot reach a comparison.
 */

FGD_INLINE KEY TN(key)(KEY bits)
{
    return bits ^ ((bits >> SIGN_SHIFT) & MAGNITUDE);
}

/* Sort the tile's rows as far as the network does: comparator (i, j) leaves the smaller key in row i. */
FGD_INLINE void TN(sort)(KEY *tile, const int32_t *network, int64_t length)
{
    for (int64_t c = 0; c < length; c++) {
        KEY *low = tile + VECTORS * network[2 * c], *high = tile + VECTORS * network[2 * c + 1];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            KEY a = low[v], b = high[v], smaller, larger;
            for (int l = 0; l < LANES; l++) {
                smaller[l] = a[l] < b[l] ? a[l] : b[l];
                larger[l] = a[l] < b[l] ? b[l] : a[l];
            }
            low[v] = smaller;
            high[v] = larger;
        }
    }
}

/* Mean over the ranks of up to VECTORS * LANES columns, `width` of them real, starting at column lo of a layer; returns
 * the first column with more than `tolerated` values that are not finite, or -1. */
FGD_INLINE int64_t TN(tile_ranks)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t width, KEY *tile,
                                  const int32_t *network, int64_t length, int64_t first, int64_t last, double divisor,
                                  int64_t tolerated, const fgd_layer *out)
{
    int64_t item = fgd_itemsize(layer->dtype), broken = -1;
    KEY count[VECTORS];
    memset(count, 0, sizeof count);
    for (int64_t i = 0; i < n; i++) {
        const char *p = fgd_row(layer, i) + lo * item;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            int64_t left = width - v * LANES;
            LANES_OF x = {0};
            if (left >= LANES)
                x = LOAD(p + v * LANES * item, layer->dtype);
            else if (left > 0)
                x = LOAD_TAIL(p + v * LANES * item, layer->dtype, left);
            KEY bits = (KEY)x, infinite = (KEY){0} + INFINITE, bad = (bits & infinite) == infinite;
            count[v] -= bad;
            tile[i * VECTORS + v] = TN(key)((bits & ~bad) | (infinite & bad));
        }
    }
    for (int v = 0; v < VECTORS; v++)
        for (int l = 0; l < LANES; l++)
            if (count[v][l] > tolerated && broken < 0)
                broken = v * LANES + l;
    TN(sort)(tile, network, length);
    for (int v = 0; v < VECTORS && v * LANES < width; v++) {
        ACC acc;
        memset(&acc, 0, sizeof acc);
        for (int64_t r = first; r <= last; r++)
            TN(add)(&acc, (LANES_OF)TN(key)(tile[r * VECTORS + v]), 1.0);
        TN(store)(&acc, divisor, out, lo + v * LANES, FGD_MIN(LANES, width - v * LANES));
    }
    return broken;
}

static void TN(segment_ranks)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t hi, int64_t offset, KEY *tile,
                              const int32_t *network, int64_t length, int64_t first, int64_t last, double divisor,
                              int64_t tolerated, const fgd_layer *out, fgd_job *job)
{
    for (int64_t c = lo, width; c < hi; c += width) {
        width = FGD_MIN(VECTORS * LANES, hi - c);
        int64_t broken = TN(tile_ranks)(layer, n, c, width, tile, network, length, first, last, divisor, tolerated, out);
        if (broken >= 0)
            fgd_lower(&job->broken, offset + c + broken);
    }
}
