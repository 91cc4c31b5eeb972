/* Squared distances of all vectors to one, for one precision. Part of a body file (isa.h); included once per precision, the
 * names of robust_body.h and pairwise.h.
 *
 * Two kernels, for two promises. `segment_squares` is as accurate as double allows, for a point that need not be one of the
 * vectors. `chunk_row` gives one row of the matrix of pairwise.h with the bits that pairwise.h gives it.
 *
 * Formula: r_i = sum_c (x_ic - p_c)^2, direct differences.
 * Cost:    one read of x; 4 operations a coordinate in double, or the tiles of 4 pairs in REAL.
 * Order:   segment_squares: within a block of FGD_POINT_BLOCK columns of a layer, coordinate c is added to lane c mod LANES,
 *          the lanes are folded, blocks are added in order. chunk_row: that of pairwise.h.
 * Error:   segment_squares, relative: at most FGD_POINT_BLOCK / LANES + blocks + 4 roundings of double, typically 1e-15.
 */

/* Add the squares of LANES differences to the lanes, in double. */
FGD_INLINE void TN(add_squares)(v8d *lanes, LANES_OF x, LANES_OF point, const int moved)
{
#if LANES == 8
    v8d t = moved ? x - point : x;
    lanes[0] += t * t;
#elif FGD_LEVEL == 2
    v8f a[2], b[2];
    memcpy(a, &x, sizeof x);
    memcpy(b, &point, sizeof point);
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        v8d t = (v8d)_mm512_cvtps_pd((__m256)a[h]);
        if (moved)
            t -= (v8d)_mm512_cvtps_pd((__m256)b[h]);
        lanes[h] += t * t;
    }
#else /* gcc takes vectors wider than the machine's apart, element by element, when it converts them */
    v4f a[4], b[4];
    v4d *sum = (v4d *)lanes;
    memcpy(a, &x, sizeof x);
    memcpy(b, &point, sizeof point);
#pragma GCC unroll 4
    for (int h = 0; h < 4; h++) {
        v4d t = __builtin_convertvector(a[h], v4d);
        if (moved)
            t -= __builtin_convertvector(b[h], v4d);
        sum[h] += t * t;
    }
#endif
}

FGD_INLINE double TN(block_squares)(const char *p, const char *q, int64_t width, const int32_t dtype, const int moved)
{
    int64_t item = fgd_itemsize(dtype);
    v8d lanes[2] = {{0}, {0}};
    for (; width >= LANES; width -= LANES, p += LANES * item, q += moved ? LANES * item : 0) {
        __builtin_prefetch(p + POINT_AHEAD);
        TN(add_squares)(lanes, LOAD(p, dtype), moved ? LOAD(q, dtype) : (LANES_OF){0}, moved);
    }
    if (width)
        TN(add_squares)(lanes, LOAD_TAIL(p, dtype, width), moved ? LOAD_TAIL(q, dtype, width) : (LANES_OF){0}, moved);
    v8d s = lanes[0] + lanes[1];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static int TN(any_bad)(const char *p, int64_t width, int32_t dtype)
{
    int64_t item = fgd_itemsize(dtype);
    for (int64_t c = 0; c < width; c += LANES) {
        LANES_OF x = LOAD_TAIL(p + c * item, dtype, FGD_MIN(width - c, LANES));
        for (int l = 0; l < LANES; l++)
            if (!(fabs((double)x[l]) < INFINITY))
                return 1;
    }
    return 0;
}

#define FOR_POINT(p, q, width, dtype)                                                                   \
    ((q) ? TN(block_squares)(p, q, width, dtype, 1) : TN(block_squares)(p, p, width, dtype, 0))

/* Add columns [lo, hi) of a layer, at most FGD_POINT_BLOCK of them, to `sums`; `point` is the layer's row of the point, or
 * NULL for the origin. */
static void TN(segment_squares)(const fgd_layer *layer, const char *point, int64_t n, int64_t lo, int64_t hi, double *sums,
                                char *bad)
{
    int64_t offset = lo * fgd_itemsize(layer->dtype), width = hi - lo;
    const char *q = point ? point + offset : NULL;
    for (int64_t i = 0; i < n; i++) {
        const char *p = fgd_row(layer, i) + offset;
        double sum;
#if LANES == 8
        sum = FOR_POINT(p, q, width, FGD_F64);
#else
        if (layer->dtype == FGD_F32)
            sum = FOR_POINT(p, q, width, FGD_F32);
        else if (layer->dtype == FGD_F16)
            sum = FOR_POINT(p, q, width, FGD_F16);
        else
            sum = FOR_POINT(p, q, width, FGD_BF16);
#endif
        if (!(sum < INFINITY)) {
            if (TN(any_bad)(p, width, layer->dtype))
                __atomic_store_n(bad + i, 1, __ATOMIC_RELAXED);
            sum = INFINITY;
        }
        sums[i] += sum;
    }
}

#undef FOR_POINT

/* One pair's block sum as in pairwise.h: `p` is a row in memory or in a panel, `step` bytes from one group of LANES to the
 * next; q are packed groups. */
FGD_INLINE double TN(row_block)(const char *p, int64_t step, const REAL *q, int64_t width, const int32_t dtype)
{
    VEC acc[LANES / WIDTH] = {{0}};
    REAL lanes[LANES] __attribute__((aligned(64)));
    for (; width > 0; width -= LANES, p += step, q += LANES) {
        VEC x[LANES / WIDTH];
        __builtin_prefetch(p + POINT_AHEAD);
        LANES_OF v = width >= LANES ? LOAD(p, dtype) : LOAD_TAIL(p, dtype, width);
        memcpy(x, &v, sizeof v);
#pragma GCC unroll 4
        for (int h = 0; h < LANES / WIDTH; h++) {
            VEC t = x[h] - *(const VEC *)(q + h * WIDTH);
            acc[h] = SQUARE(t, acc[h]);
        }
    }
    memcpy(lanes, acc, sizeof lanes);
    v8d s = TN(widen)(lanes);
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

FGD_NOINLINE double TN(row_sum)(const char *p, int64_t step, const REAL *q, int64_t width, int32_t dtype)
{
#if LANES == 8
    return dtype == FGD_F64 ? TN(row_block)(p, step, q, width, FGD_F64) : TN(row_block)(p, step, q, width, dtype);
#else
    return dtype == FGD_F32   ? TN(row_block)(p, step, q, width, FGD_F32)
           : dtype == FGD_F16 ? TN(row_block)(p, step, q, width, FGD_F16)
                              : TN(row_block)(p, step, q, width, FGD_BF16);
#endif
}

/* The block [lo, lo + width) of rows `row` and i, packed as pairwise.h packs it into two panels, when row_sum cannot do. */
static double TN(packed_sum)(const fgd_rows *x, int64_t row, int64_t i, int64_t lo, int64_t width, REAL *panels, double sum,
                             int64_t block, char *bad)
{
    REAL *a = panels, *b = panels + 4 * block;
    TN(pack_row)(x, row, lo, width, a);
    TN(pack_row)(x, i, lo, width, b);
    return TN(careful)(a, b, (width + LANES - 1) / LANES, sum, bad + row, bad + i);
}

/* Add the columns [begin, end) to the n sums of row `row`, block by block. Rows are read where they lie, several blocks at a
 * time, unless layers end within a block. `scratch` has room for two panels and for `many` + block packed columns. */
static void TN(chunk_row)(const fgd_rows *x, int64_t row, int64_t begin, int64_t end, int64_t block, int64_t many, REAL *scratch,
                          double *sums, char *bad)
{
    REAL *panel = scratch, *point = scratch + 8 * block;
    const fgd_layer *layer = x->layer;
    for (int64_t lo = begin, hi, offset = 0; lo < end; lo = hi) {
        for (; lo >= offset + layer->size; layer++)
            offset += layer->size;
        int64_t inside = (FGD_MIN(offset + layer->size, end) - lo) / block * block, item = fgd_itemsize(layer->dtype);
        int whole = inside > 0 || offset + layer->size >= FGD_MIN(lo + block, end);
        hi = FGD_MIN(lo + FGD_MAX(FGD_MIN(inside, many), block), end);
        for (int64_t c = lo; c < hi; c += block) {
            int64_t width = FGD_MIN(block, hi - c);
            TN(pack_row)(x, row, c, width, panel);
            for (int64_t k = 0; k * LANES < width; k++)
                memcpy(point + c - lo + k * LANES, panel + k * 4 * LANES, LANES * sizeof(REAL));
        }
        for (int64_t i = 0; i < x->n; i++)
            for (int64_t c = lo; c < hi; c += block) {
                int64_t width = FGD_MIN(block, hi - c);
                double sum;
                if (whole)
                    sum = TN(row_sum)(fgd_row(layer, i) + (c - offset) * item, LANES * item, point + c - lo, width, layer->dtype);
                else {
                    TN(pack_row)(x, i, c, width, panel);
                    sum = TN(row_sum)((const char *)panel, 4 * LANES * sizeof(REAL), point + c - lo,
                                      (width + LANES - 1) / LANES * LANES, LANES == 8 ? FGD_F64 : FGD_F32);
                }
                if (!(sum >= SMALL && sum <= 0x1p1000)) {
                    if (__atomic_load_n(bad + row, __ATOMIC_RELAXED) || __atomic_load_n(bad + i, __ATOMIC_RELAXED))
                        break;
                    sum = TN(packed_sum)(x, row, i, c, width, panel, sum, block, bad);
                }
                sums[i] += sum;
            }
    }
}
