/* Squared distances of packed blocks, for one precision. Part of a body file (isa.h); included once per precision with
 *   REAL              float or double
 *   LANES             coordinates summed side by side: 16 or 8
 *   VEC, WIDTH        the machine's vector of REAL and its length
 *   SQUARE(t,s)       t * t + s
 *   MULTIPLY(x,y,s)   x * y + s
 *   TN(name)          the function's name
 *
 * Formula: D_ij = sum_c (x_ic - x_jc)^2, direct differences: no cancellation, and no row can spoil another pair.
 * Cost:    n^2 / 2 subtractions and multiply-adds a coordinate; x is read once, block by block of columns, which are packed
 *          into panels of 4 rows so that a tile of 4 x 4 pairs reads two streams, GROUP of them from the first-level cache.
 * Order:   within a block, coordinate c is added to lane c mod LANES; the lanes are folded as a fixed tree; blocks are added
 *          in order, in double. Nothing depends on tile shape or register width.
 * Error:   relative, for any input: block / LANES + 6 roundings of REAL, 38 x 2^-24 = 2.3e-6 for float with blocks of 512
 *          columns; 1e-8 to 1e-7 for data without one dominant coordinate.
 */

#define TILE_J 4
#define TILE_I (WIDTH == LANES ? 4 : 2)

/* Block sums of the 16 pairs of two panels, of squared differences or of products; `steps` groups of LANES columns. While
 * it computes it prefetches the cache lines next0, next0 + 64, .. and next1, ..: the coming block of two rows. */
FGD_INLINE void TN(tile_body)(const REAL *a, const REAL *b, int64_t steps, double *sums, const int diagonal, const int products,
                              const char *next0, const char *next1)
{
    REAL lanes[16][LANES] __attribute__((aligned(64)));
    for (int i = 0; i < 4; i += TILE_I)
        for (int j = 0; j < 4; j += TILE_J)
            for (int h = 0; h < LANES; h += WIDTH) {
                const REAL *p = a + i * LANES + h, *q = b + j * LANES + h;
                VEC acc[TILE_I][TILE_J];
#pragma GCC unroll 4
                for (int u = 0; u < TILE_I; u++)
#pragma GCC unroll 4
                    for (int v = 0; v < TILE_J; v++)
                        acc[u][v] = (VEC){0};
                for (int64_t k = 0; k < steps; k++, p += 4 * LANES, q += 4 * LANES) {
                    VEC y[TILE_J];
                    if (i + j + h == 0) {
                        __builtin_prefetch(next0 + 64 * k);
                        __builtin_prefetch(next1 + 64 * k);
                    }
#pragma GCC unroll 4
                    for (int v = 0; v < TILE_J; v++)
                        y[v] = *(const VEC *)(q + v * LANES);
#pragma GCC unroll 4
                    for (int u = 0; u < TILE_I; u++) {
                        VEC x = *(const VEC *)(p + u * LANES);
#pragma GCC unroll 4
                        for (int v = 0; v < TILE_J; v++)
                            if (products)
                                acc[u][v] = MULTIPLY(x, y[v], acc[u][v]);
                            else if (!diagonal || j + v > i + u) {
                                VEC t = x - y[v];
                                acc[u][v] = SQUARE(t, acc[u][v]);
                            }
                    }
                }
#pragma GCC unroll 4
                for (int u = 0; u < TILE_I; u++)
#pragma GCC unroll 4
                    for (int v = 0; v < TILE_J; v++)
                        *(VEC *)&lanes[4 * (i + u) + j + v][h] = acc[u][v];
            }
    TN(fold)(lanes[0], sums);
    TN(fold)(lanes[8], sums + 8);
}

FGD_NOINLINE void TN(tile)(const REAL *a, const REAL *b, int64_t steps, double *sums, const char *next0, const char *next1)
{
    TN(tile_body)(a, b, steps, sums, 0, 0, next0, next1);
}

FGD_NOINLINE void TN(tile_diagonal)(const REAL *a, int64_t steps, double *sums, const char *next0, const char *next1)
{
    TN(tile_body)(a, a, steps, sums, 1, 0, next0, next1);
}

static char TN(has_bad)(const REAL *a, int64_t steps)
{
    for (int64_t k = 0; k < steps; k++)
        for (int l = 0; l < LANES; l++)
            if (!(fabs(a[4 * LANES * k + l]) < INFINITY))
                return 1;
    return 0;
}

/* One pair's block again, in double, when the fast sum `fast` is not trustworthy; marks rows that are not finite. */
FGD_NOINLINE double TN(careful)(const REAL *a, const REAL *b, int64_t steps, double fast, char *bad_a, char *bad_b)
{
    double q[LANES] __attribute__((aligned(64))) = {0}, sum = 0.0;
    int64_t k = 0;
    if (fast == 0.0) /* equal rows, or differences too small to square */
        while (k < steps && memcmp(a + 4 * LANES * k, b + 4 * LANES * k, LANES * sizeof(REAL)) == 0)
            k++;
    for (; k < steps; k++)
        for (int l = 0; l < LANES; l++) {
            double t = (double)a[4 * LANES * k + l] - (double)b[4 * LANES * k + l];
            q[l] += t * t;
        }
    for (int l = 0; l < LANES; l++)
        sum += q[l];
    if (!(sum < INFINITY)) {
        if (TN(has_bad)(a, steps))
            __atomic_store_n(bad_a, 1, __ATOMIC_RELAXED);
        if (TN(has_bad)(b, steps))
            __atomic_store_n(bad_b, 1, __ATOMIC_RELAXED);
        sum = INFINITY;
    }
    return sum;
}

/* Columns [lo, lo + width) of row i into its place in a panel, LANES at a time; zeros fill the last group. */
FGD_INLINE void TN(pack_row)(const fgd_rows *x, int64_t i, int64_t lo, int64_t width, REAL *panel)
{
    const fgd_layer *layer = x->layer;
    while (lo >= layer->size)
        lo -= (layer++)->size;
    int64_t done = 0;
    if (lo + width <= layer->size) { /* the whole block in one layer: straight through */
        int64_t item = fgd_itemsize(layer->dtype);
        const char *p = fgd_row(layer, i) + lo * item;
        int32_t dtype = layer->dtype;
        for (; done + LANES <= width; done += LANES, panel += 4 * LANES) {
            LANES_OF v = LOAD(p + done * item, dtype);
            memcpy(panel, &v, sizeof v);
        }
        if (done < width) {
            LANES_OF v = LOAD_TAIL(p + done * item, dtype, width - done);
            memcpy(panel, &v, sizeof v);
        }
        return;
    }
    while (done < width) { /* layers end within the block: coordinate c belongs to lane c mod LANES all the same */
        int64_t item = fgd_itemsize(layer->dtype), count = FGD_MIN(layer->size - lo, width - done);
        const char *p = fgd_row(layer, i) + lo * item;
        for (int64_t c = 0; c < count; c += LANES) {
            int64_t part = FGD_MIN(count - c, LANES);
            LANES_OF v = part == LANES ? LOAD(p + c * item, layer->dtype) : LOAD_TAIL(p + c * item, layer->dtype, part);
            for (int64_t l = 0; l < part; l++, done++)
                panel[done / LANES * 4 * LANES + done % LANES] = v[l];
        }
        lo = 0;
        layer++;
    }
    for (; done % LANES; done++)
        panel[done / LANES * 4 * LANES + done % LANES] = 0;
}

/* Pack the columns [lo, lo + width) of all rows into panels of 4; missing rows of the last one are zero. */
static void TN(pack)(const fgd_rows *x, int64_t lo, int64_t width, REAL *packed)
{
    int64_t steps = (width + LANES - 1) / LANES;
    for (int64_t i = 0; i < (x->n + 3) / 4 * 4; i++) {
        REAL *place = packed + i / 4 * steps * 4 * LANES + i % 4 * LANES;
        if (i < x->n)
            TN(pack_row)(x, i, lo, width, place);
        else
            for (int64_t k = 0; k < steps; k++)
                memset(place + k * 4 * LANES, 0, LANES * sizeof(REAL));
    }
}

/* Where the rows' next block lies, handed out row by row to the tiles, which prefetch it. */
typedef struct {
    const fgd_rows *x;
    int64_t offset, row, gap, wait;
} TN(coming);

FGD_INLINE TN(coming) TN(coming_block)(const fgd_rows *x, int64_t column, int64_t end, int64_t tiles)
{
    int64_t known = column < end && x->n_layers == 1;
    return (TN(coming)){x, column * fgd_itemsize(x->layer->dtype), known ? 0 : x->n, FGD_MAX(tiles / x->n, 1), 0};
}

/* Two rows' addresses, or `here` when it is not this tile's turn. Rows are shared out evenly: one each `gap` tiles, two when
 * tiles are few. */
FGD_INLINE void TN(next_rows)(TN(coming) *c, const void *here, const char **next0, const char **next1)
{
    *next0 = *next1 = here;
    if (c->row >= c->x->n || c->wait-- > 0)
        return;
    c->wait = c->gap - 1;
    *next0 = fgd_row(c->x->layer, c->row++) + c->offset;
    if (c->gap == 1 && c->row < c->x->n)
        *next1 = fgd_row(c->x->layer, c->row++) + c->offset;
}

/* Add a tile's block sums to `sum`, pairs whose fast sum is not trustworthy one by one. */
FGD_INLINE void TN(add_pairs)(int64_t n, int64_t i, int64_t j, const REAL *a, const REAL *b, int64_t steps, double *tile,
                             double *sum, char *bad)
{
    v8d low = *(v8d *)tile, high = *(v8d *)(tile + 8);
    v8i fine = (low >= SMALL) & (high >= SMALL) & (low <= 0x1p1000) & (high <= 0x1p1000);
    if (__builtin_expect(FN(all)(fine), 1)) {
        *(v8d_anywhere *)sum += low;
        *(v8d_anywhere *)(sum + 8) += high;
        return;
    }
    for (int pair = 0; pair < 16; pair++) {
        int64_t u = 4 * i + pair / 4, v = 4 * j + pair % 4;
        if (u >= v || v >= n || bad[u] || bad[v])
            continue;
        if (!(tile[pair] >= SMALL && tile[pair] <= 0x1p1000))
            tile[pair] = TN(careful)(a + pair / 4 * LANES, b + pair % 4 * LANES, steps, tile[pair], bad + u, bad + v);
        sum[pair] += tile[pair];
    }
}

/* Add the columns [begin, end) to `partial`: 16 doubles a tile, tiles of the upper triangle row by row; those that are not
 * `wanted` are left out (NULL: all are wanted). */
static void TN(chunk)(const fgd_rows *x, int64_t begin, int64_t end, int64_t block, REAL *packed, const char *wanted,
                      double *partial, char *bad)
{
    int64_t n = x->n, panels = (n + 3) / 4, tiles = panels * (panels + 1) / 2;
    for (int64_t lo = begin; lo < end; lo += block) {
        int64_t width = FGD_MIN(block, end - lo), steps = (width + LANES - 1) / LANES, size = steps * 4 * LANES;
        TN(pack)(x, lo, width, packed);
        TN(coming) coming = TN(coming_block)(x, lo + width, end, tiles);
        double tile[16] __attribute__((aligned(64)));
        for (int64_t group = 0; group < panels; group += GROUP)
            for (int64_t i = 0; i < FGD_MIN(group + GROUP, panels); i++)
                for (int64_t j = FGD_MAX(i, group); j < FGD_MIN(group + GROUP, panels); j++) {
                    int64_t at = fgd_tile(panels, i, j);
                    const REAL *a = packed + i * size, *b = packed + j * size;
                    const char *next0, *next1;
                    if (wanted && !wanted[at])
                        continue;
                    TN(next_rows)(&coming, a, &next0, &next1);
                    if (i == j)
                        TN(tile_diagonal)(a, steps, tile, next0, next1);
                    else
                        TN(tile)(a, b, steps, tile, next0, next1);
                    TN(add_pairs)(n, i, j, a, b, steps, tile, partial + 16 * at, bad);
                }
    }
}

#undef TILE_I
#undef TILE_J
