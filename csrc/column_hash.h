/* Signs of the columns of a matrix projected onto normal vectors. Part of hashing_body.h.
 *
 * Formula: flag[k, c] = 1 where sum_i R_k[i] M[i, c] > 0, R_k[i] element k length + i of normal(seed, step = length).
 * Cost:    one read of M; a product and a sum for 8 (matrix row, column, vector)s; normals are drawn once a stripe of 512
 *          columns, in runs of 256 matrix rows.
 * Order:   in double. Runs of 256 matrix rows, each summed in ascending order; the runs' sums in ascending order.
 */

#define STEP 32  /* matrix rows whose sums stay in registers */
#define NARROW 8 /* columns below which lanes are better spent on vectors */
#define MOST 6   /* vectors whose sums fit into the registers */

/* part[k][c .. c + 16) += rows of m for `vectors` vectors k; m is the first of `rows` matrix rows, `pitch` bytes apart. */
FGD_INLINE void FN(add_columns)(const char *m, int64_t pitch, int64_t rows, const int32_t dtype, int64_t left, double scale,
                                const double *normals, int vectors, double *part, int64_t stride)
{
    VD acc[MOST][16 / HL];
    for (int k = 0; k < vectors; k++)
        memcpy(acc[k], part + k * stride, sizeof acc[k]);
    for (int64_t i = 0; i < rows; i++, m += pitch) {
        __builtin_prefetch(m + 256);
        VD value[16 / HL];
        if (dtype == FGD_F64) {
            memset(value, 0, sizeof value);
            memcpy(value, m, left >= 16 ? sizeof value : (size_t)left * 8);
        } else {
            v16f wide = left >= 16 ? FN(load_f)(m, dtype) : FN(load_tail_f)(m, dtype, left);
            VS half[16 / HL];
            memcpy(half, &wide, sizeof half);
            for (int h = 0; h < 16 / HL; h++)
                value[h] = __builtin_convertvector(half[h], VD);
        }
        for (int k = 0; k < vectors; k++)
            for (int h = 0; h < 16 / HL; h++)
                acc[k][h] += value[h] * scale * normals[k * FGD_RUN + i];
    }
    for (int k = 0; k < vectors; k++)
        memcpy(part + k * stride, acc[k], sizeof acc[k]);
}

#define SOME(vectors)                                                                                                          \
    case vectors:                                                                                                              \
        FN(add_columns)(m, pitch, rows, dtype, left, scale, normals, vectors, part, stride);                                   \
        break;

/* The same for all vectors: as many at a time as there are registers for. */
FGD_INLINE void FN(add_columns_of)(const char *m, int64_t pitch, int64_t rows, const int32_t dtype, int64_t left, double scale,
                                   const double *normals, int64_t bits, double *part, int64_t stride)
{
    for (int64_t k = 0; k < bits; k += MOST, normals += MOST * FGD_RUN, part += MOST * stride)
        switch (FGD_MIN(MOST, bits - k)) {
            SOME(1)
            SOME(2)
            SOME(3)
            SOME(4)
            SOME(5)
            SOME(6)
        }
}

#undef SOME

/* One matrix column: the vectors side by side in the lanes, `across[i * lanes + k]` their values. */
FGD_INLINE void FN(add_column)(const char *m, int64_t pitch, int64_t rows, const int32_t dtype, double scale,
                               const double *across, int64_t bits, double *part, int64_t stride)
{
    int64_t lanes = (bits + HL - 1) / HL * HL;
    for (int64_t k = 0; k < bits; k += HL) {
        VD acc = {0};
        for (int64_t i = 0; i < rows; i++) {
            VD normals;
            memcpy(&normals, across + i * lanes + k, sizeof normals);
            double value = dtype == FGD_F64 ? FN(load_tail_d)(m + i * pitch, FGD_F64, 1)[0]
                                            : (double)FN(load_tail_f)(m + i * pitch, dtype, 1)[0];
            acc += value * scale * normals;
        }
        for (int64_t l = 0; l < FGD_MIN(HL, bits - k); l++)
            part[(k + l) * stride] = acc[l];
    }
}

/* The run of `rows` matrix rows for `width` columns into part[k][c]. */
FGD_NOINLINE void FN(column_run)(const char *m, int64_t pitch, int64_t rows, int32_t dtype, int64_t width, double scale,
                                 const double *normals, const double *across, int64_t bits, double *part, int64_t stride)
{
    int64_t item = fgd_itemsize(dtype);
    if (width < NARROW) {
        for (int64_t c = 0; c < width; c++)
            if (dtype == FGD_F32)
                FN(add_column)(m + c * item, pitch, rows, FGD_F32, scale, across, bits, part + c, stride);
            else
                FN(add_column)(m + c * item, pitch, rows, dtype, scale, across, bits, part + c, stride);
        return;
    }
    for (int64_t i = 0; i < rows; i += STEP)
        for (int64_t c = 0; c < width; c += 16) {
            const char *p = m + i * pitch + c * item;
            int64_t count = FGD_MIN(STEP, rows - i), left = width - c;
            if (dtype == FGD_F32 && left >= 16 && scale == 1.0)
                FN(add_columns_of)(p, pitch, count, FGD_F32, 16, 1.0, normals + i, bits, part + c, stride);
            else
                FN(add_columns_of)(p, pitch, count, dtype, left, scale, normals + i, bits, part + c, stride);
        }
}

/* All columns of [lo, lo + width) of one matrix, scaled: total[k][c]. */
typedef struct {
    int64_t length, columns, first, bits, stride; /* bits vectors from number `first` on */
    uint64_t seed;
    double *normals, *across, *part; /* one run's normals by vector and, for narrow matrices, by matrix row */
} FN(projection);

FGD_INLINE void FN(draw)(const FN(projection) *p, int64_t i, int64_t rows)
{
    int64_t lanes = (p->bits + HL - 1) / HL * HL;
    for (int64_t k = 0; k < p->bits; k++) {
        float drawn[FGD_RUN];
        fgd_job whole = {0, 0};
        fgd_random_normal(p->seed, (uint32_t)p->length, (uint64_t)((p->first + k) * p->length + i), rows, drawn, &whole);
        for (int64_t j = 0; j < rows; j++)
            p->normals[k * FGD_RUN + j] = p->across[j * lanes + k] = drawn[j];
    }
}

/* total += the run of matrix rows i .. i + rows - 1 */
FGD_INLINE void FN(add_run)(const FN(projection) *p, const fgd_layer *layer, int64_t vector, int64_t i, int64_t rows, int64_t lo,
                            int64_t width, double scale, double *total)
{
    int64_t item = fgd_itemsize(layer->dtype);
    memset(p->part, 0, (size_t)(8 * p->bits * p->stride));
    FN(column_run)(fgd_row(layer, vector) + (i * p->columns + lo) * item, p->columns * item, rows, layer->dtype, width, scale,
                   p->normals, p->across, p->bits, p->part, p->stride);
    for (int64_t e = 0; e < p->bits * p->stride; e++)
        total[e] += p->part[e];
}

FGD_NOINLINE int FN(columns)(const fgd_layer *layer, int64_t n, int64_t batch, int64_t length, int64_t columns, int64_t lowest,
                             int64_t bits, uint64_t seed, uint8_t *flags, int64_t pitch, char *bad, fgd_job *job)
{
    int64_t stripe = FGD_MIN(columns, FGD_STRIPE), stripes = (columns + FGD_STRIPE - 1) / FGD_STRIPE;
    int64_t chunks = fgd_hashing_columns_chunks(n, columns);
    FN(projection) p = {length, columns, lowest, bits, (stripe + 15) / 16 * 16, seed, NULL, NULL, NULL};
    int64_t size = bits * p.stride, normals = (bits + HL - 1) / HL * HL * FGD_RUN;
    double *total = fgd_scratch(8 * (2 * normals + (batch + 2) * size));
    if (!total)
        return -1;
    p.part = total + (batch + 1) * size;
    p.normals = p.part + size;
    p.across = p.normals + normals;
    memset(p.normals, 0, (size_t)(16 * normals));
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < chunks;) {
        int64_t first = chunk / stripes * batch, count = FGD_MIN(batch, n - first);
        int64_t lo = chunk % stripes * FGD_STRIPE, width = FGD_MIN(FGD_STRIPE, columns - lo);
        memset(total, 0, (size_t)(8 * count * size));
        for (int64_t i = 0; i < length; i += FGD_RUN) {
            int64_t rows = FGD_MIN(FGD_RUN, length - i);
            FN(draw)(&p, i, rows);
            for (int64_t v = 0; v < count; v++)
                FN(add_run)(&p, layer, first + v, i, rows, lo, width, 1.0, total + v * size);
        }
        for (int64_t v = 0; v < count; v++) {
            double *sums = total + v * size, *again = total + batch * size;
            int unsafe = 0;
            for (int64_t e = 0; e < size; e++)
                unsafe |= !(fabs(sums[e]) < FGD_SAFE);
            if (unsafe) { /* of finite values only doubles come here: the sum may have overflowed on the way */
                memset(again, 0, (size_t)(8 * size));
                for (int64_t i = 0; i < length; i += FGD_RUN) {
                    FN(draw)(&p, i, FGD_MIN(FGD_RUN, length - i));
                    FN(add_run)(&p, layer, first + v, i, FGD_MIN(FGD_RUN, length - i), lo, width, 0x1p-80, again);
                }
            }
            for (int64_t k = 0; k < bits; k++)
                for (int64_t c = 0; c < width; c++) {
                    double sum = sums[k * p.stride + c];
                    if (!(fabs(sum) < FGD_SAFE))
                        sum = again[k * p.stride + c];
                    if (!(fabs(sum) < INFINITY))
                        bad[first + v] = 1;
                    flags[(first + v) * pitch + k * columns + lo + c] = sum > 0.0;
                }
        }
    }
    free(total);
    return 0;
}

#undef STEP
#undef NARROW
#undef MOST
