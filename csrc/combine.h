/* Linear combinations, for one precision. Part of a body file (isa.h); included once per precision, names as in rank.h.
 *
 * Formula: y_ac = (sum_i W_ai x_ic) / divisor over the i with W_ai != 0.
 * Cost:    one read of the rows that have a weight, m n d multiply-adds; the sums of a strip of columns stay in cache.
 * Order:   ascending i, in double for float, compensated (TwoSum) for double.
 */
static void TN(segment_combine)(const fgd_layer *layer, int64_t n, int64_t m, int64_t lo, int64_t hi, int64_t offset,
                                const double *weights, double divisor, ACC *sums, int64_t strip, const fgd_layer *out,
                                fgd_job *job)
{
    int64_t item = fgd_itemsize(layer->dtype);
    for (int64_t c = lo, width; c < hi; c += width) {
        width = FGD_MIN(strip * LANES, hi - c);
        memset(sums, 0, (size_t)(m * strip) * sizeof *sums);
        for (int64_t i = 0; i < n; i++) {
            const char *p = fgd_row(layer, i) + c * item;
            for (int64_t a = 0; a < m; a++) {
                double w = weights[a * n + i];
                if (w == 0.0)
                    continue;
                int64_t v = 0;
                for (; (v + 1) * LANES <= width; v++)
                    TN(add)(sums + a * strip + v, LOAD(p + v * LANES * item, layer->dtype), w);
                if (v * LANES < width)
                    TN(add)(sums + a * strip + v, LOAD_TAIL(p + v * LANES * item, layer->dtype, width - v * LANES), w);
            }
        }
        for (int64_t a = 0; a < m; a++)
            for (int64_t v = 0; v * LANES < width; v++) {
                fgd_layer row = *out;
                row.base = fgd_row(out, a);
                int64_t broken = TN(store)(sums + a * strip + v, divisor, &row, c + v * LANES, FGD_MIN(LANES, width - v * LANES));
                if (broken >= 0)
                    fgd_lower(&job->broken, offset + c + v * LANES + broken);
            }
    }
}
