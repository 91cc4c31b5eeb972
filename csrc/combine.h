/* Linear combinations, for one precision. Part of a body file (isa.h); included once per precision, the names of robust_body.h.
 *
 * Formula: y_ac = (sum_i W_ai x_ic) / divisor over the i with W_ai != 0.
 * Cost:    one read of the rows that have a weight, m n d multiply-adds; the sums of VECTORS vectors stay in registers,
 *          the n x VECTORS tile in the first-level cache for all m, and later tiles are prefetched.
 * Order:   ascending i, in double for float, compensated (TwoSum) for double.
 */

FGD_INLINE void TN(add_rows)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t width, const double *weights, ACC *sums,
                             const int32_t dtype)
{
    int64_t item = fgd_itemsize(dtype);
    ACC acc[VECTORS];
    memset(acc, 0, sizeof acc);
    for (int64_t i = 0, v = 0; i < n && v < VECTORS; i++) /* no weights at all: +0 */
        if (weights[i] != 0.0)
            for (; v < VECTORS; v++)
                TN(start)(acc + v);
    for (int64_t i = 0; i < n; i++) {
        if (weights[i] == 0.0)
            continue;
        const char *p = fgd_row(layer, i) + lo * item;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++, p += LANES * item) {
            __builtin_prefetch(p + COMBINE_AHEAD);
            int64_t left = width - v * LANES;
            TN(add)(acc + v, left >= LANES ? LOAD(p, dtype) : LOAD_TAIL(p, dtype, FGD_MAX(left, 0)), weights[i]);
        }
    }
    memcpy(sums, acc, sizeof acc);
}

/* One column again, where the sum in double overflowed. */
typedef struct {
    const fgd_layer *layer;
    int64_t n;
    const double *weights;
    double divisor;
} TN(combination);

static long double TN(rescue_sum)(const void *context, int64_t column)
{
    const TN(combination) *c = context;
    long double sum = -0.0L;
    for (int64_t i = 0; i < c->n; i++)
        if (c->weights[i] != 0.0) {
            const char *p = fgd_row(c->layer, i) + column * fgd_itemsize(c->layer->dtype);
            sum += (long double)c->weights[i] * LOAD_TAIL(p, c->layer->dtype, 1)[0];
        }
    return sum / c->divisor;
}

/* Columns [lo, hi) of a layer whose first coordinate is `offset`. */
static void TN(segment_combine)(const fgd_layer *layer, int64_t n, int64_t m, int64_t lo, int64_t hi, int64_t offset,
                                const double *weights, double divisor, const fgd_layer *out, fgd_job *job)
{
    for (int64_t c = lo; c < hi; c += VECTORS * LANES) {
        int64_t width = FGD_MIN(VECTORS * LANES, hi - c);
        for (int64_t a = 0; a < m; a++) {
            ACC sums[VECTORS];
            FOR_DTYPE(layer->dtype, width == VECTORS * LANES, TN(add_rows), layer, n, c, width, weights + a * n, sums);
            TN(combination) context = {layer, n, weights + a * n, divisor};
            for (int v = 0; v * LANES < width; v++) {
                int64_t broken = TN(store)(sums + v, divisor, (char *)fgd_row(out, a), out->dtype, c + v * LANES,
                                           FGD_MIN(LANES, width - v * LANES), TN(rescue_sum), &context);
                if (broken >= 0)
                    fgd_lower(&job->broken, offset + c + v * LANES + broken);
            }
        }
    }
}
