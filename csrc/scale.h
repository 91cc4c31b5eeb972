/* Vectors times one factor each, for one precision. Part of a body file (isa.h); included once per precision, the names of
 * robust_body.h.
 *
 * Formula: y_ic = factor_i x_ic; +0 for a factor of 0, whatever x is; the bits of x for a factor of 1.
 * Cost:    one read and one write.
 * Order:   a product in double, rounded once to the dtype.
 */
static void TN(segment_scale)(const fgd_layer *layer, int64_t n, int64_t lo, int64_t hi, const double *factor,
                              const fgd_layer *out)
{
    int32_t dtype = layer->dtype;
    int64_t item = fgd_itemsize(dtype);
    for (int64_t i = 0; i < n; i++) {
        const char *p = fgd_row(layer, i) + lo * item;
        char *y = (char *)fgd_row(out, i) + lo * item;
        double a = factor[i];
        int64_t c = 0;
        if (a == 1.0 || a == 0.0) {
            if (a == 0.0)
                memset(y, 0, (size_t)((hi - lo) * item));
            else
                memmove(y, p, (size_t)((hi - lo) * item));
            continue;
        }
        for (; dtype == (LANES == 8 ? FGD_F64 : FGD_F32) && c + LANES <= hi - lo; c += LANES) {
            REAL v[LANES];
            __builtin_prefetch(p + c * item + POINT_AHEAD);
            memcpy(v, p + c * item, sizeof v);
            for (int l = 0; l < LANES; l++)
                v[l] = (REAL)(a * (double)v[l]);
            memcpy(y + c * item, v, sizeof v);
        }
        for (; c < hi - lo; c += LANES) {
            int64_t count = FGD_MIN(hi - lo - c, LANES);
            LANES_OF v = LOAD_TAIL(p + c * item, dtype, count);
            for (int64_t l = 0; l < count; l++)
                fgd_store(y + (c + l) * item, dtype, a * (double)v[l]);
        }
    }
}
