/* Linear combinations, for one precision. Part of a body file (isa.h); included once per precision, the names of robust_body.h.
 *
 * Formula: y_ac = (sum_i W_ai x_ic) / divisor over the i with W_ai != 0.
 * Cost:    one read of the rows that have a weight, m n d multiply-adds, or additions where all weights of a result are 1;
 *          later tiles are prefetched. One result (add_rows): the sums of VECTORS vectors stay in registers. Several:
 *          COMBINE_ROWS rows of a tile are widened to double once, in the first-level cache, for all m; results with equal
 *          weights are summed once. Large results are written past the caches, which saves reading their lines first.
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

/* Write the columns [c, c + width) of result a. */
FGD_INLINE void TN(store_sums)(const ACC *sums, const fgd_layer *layer, const fgd_combination *w, int64_t a, int64_t c,
                               int64_t width, int64_t offset, const fgd_layer *out, fgd_job *job)
{
    char *row = (char *)fgd_row(out, a);
    if (width == VECTORS * LANES && out->dtype == (LANES == 8 ? FGD_F64 : FGD_F32) &&
        TN(store_tile)(sums, w->divisor, row + c * (int64_t)sizeof(REAL), w->large))
        return;
    TN(combination) context = {layer, w->n, w->weights + a * w->n, w->divisor};
    for (int v = 0; v * LANES < width; v++) {
        int64_t broken = TN(store)(sums + v, w->divisor, row, out->dtype, c + v * LANES,
                                   FGD_MIN(LANES, width - v * LANES), TN(rescue_sum), &context);
        if (broken >= 0)
            fgd_lower(&job->broken, offset + c + v * LANES + broken);
    }
}

/* `width` columns of the rows in `mask`, one bit a row, as doubles. */
FGD_INLINE void TN(pack_rows)(const fgd_layer *layer, int64_t first, int64_t lo, int64_t width, uint32_t mask, double *tile,
                              const int32_t dtype)
{
    int64_t item = fgd_itemsize(dtype);
    for (; mask; mask &= mask - 1) {
        int i = __builtin_ctz(mask);
        const char *p = fgd_row(layer, first + i) + lo * item;
        double *place = tile + i * VECTORS * LANES;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++, p += LANES * item) {
            __builtin_prefetch(p + COMBINE_AHEAD);
            int64_t left = width - v * LANES;
            TN(widen_to)(place + v * LANES, left >= LANES ? LOAD(p, dtype) : LOAD_TAIL(p, dtype, FGD_MAX(left, 0)));
        }
    }
}

/* Columns [lo, hi) of a layer whose first coordinate is `offset`, of several results. */
static void TN(segment_mix)(const fgd_layer *layer, int64_t lo, int64_t hi, int64_t offset, const fgd_combination *w,
                            const fgd_layer *out, fgd_job *job)
{
    int64_t item = fgd_itemsize(out->dtype);
    ACC *sums = w->sums;
    /* Large results: a first tile up to where a cache line begins, in the first and so in most results. */
    int64_t before = w->large ? (int64_t)(-(uintptr_t)(fgd_row(out, 0) + lo * item) % 64) / item : 0;
    for (int64_t c = lo, width; c < hi; c += width) {
        width = FGD_MIN(c == lo && before ? before : VECTORS * LANES, hi - c);
        for (int64_t group = 0; group < w->groups; group++) {
            FOR_DTYPE(layer->dtype, width == VECTORS * LANES, TN(pack_rows), layer, group * COMBINE_ROWS, c, width,
                      w->used[group], w->tile);
            for (int64_t a = 0; a < w->m; a++) {
                ACC *sum = sums + w->leader[a] * VECTORS;
                if (w->leader[a] == a) {
                    for (int v = 0; v < VECTORS && group == 0; v++)
                        if (w->form[a] == FGD_NO_WEIGHTS)
                            memset(sum + v, 0, sizeof *sum);
                        else
                            TN(start)(sum + v);
                    TN(add_tile)(w->tile, w->rows[a * w->groups + group], w->weights + a * w->n + group * COMBINE_ROWS,
                                 w->form[a] == FGD_UNIT_WEIGHTS, sum);
                }
                if (group + 1 == w->groups)
                    TN(store_sums)(sum, layer, w, a, c, width, offset, out, job);
            }
        }
    }
}

/* The same of one result. */
static void TN(segment_combine)(const fgd_layer *layer, int64_t lo, int64_t hi, int64_t offset, const fgd_combination *w,
                                const fgd_layer *out, fgd_job *job)
{
    for (int64_t c = lo; c < hi; c += VECTORS * LANES) {
        int64_t width = FGD_MIN(VECTORS * LANES, hi - c);
        ACC sums[VECTORS];
        FOR_DTYPE(layer->dtype, width == VECTORS * LANES, TN(add_rows), layer, w->n, c, width, w->weights, sums);
        TN(store_sums)(sums, layer, w, 0, c, width, offset, out, job);
    }
}
