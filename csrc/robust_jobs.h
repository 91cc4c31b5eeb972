/* What one caller of a job does: takes chunks until none is left and hands them to the kernel of the layers' precision. Part of
 * a body file (isa.h), the names of robust_body.h.
 */

static int FN(pairwise)(const fgd_rows *x, fgd_split split, const char *wanted, int wide, int64_t size,
                        double *partial, char *bad, fgd_job *job)
{
    void *packed = fgd_scratch((x->n + 3) / 4 * 4 * split.block * (wide ? 8 : 4));
    if (!packed)
        return -1;
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < split.chunks;) {
        int64_t begin = chunk * split.columns, end = FGD_MIN(begin + split.columns, x->d);
        double *sums = partial + chunk * size;
        memset(sums, 0, (size_t)size * sizeof *sums);
        if (wide)
            FN(chunk_d)(x, begin, end, split.block, packed, wanted, sums, bad);
        else
            FN(chunk_f)(x, begin, end, split.block, packed, wanted, sums, bad);
    }
    free(packed);
    return 0;
}

/* Distances over `strips` of `width` columns, evenly spread; float rows. */
static int FN(pairwise_sample)(const fgd_rows *x, int64_t strips, int64_t width, double *partial, char *bad)
{
    float *packed = fgd_scratch((x->n + 3) / 4 * 4 * width * 4);
    if (!packed)
        return -1;
    for (int64_t s = 0; s < strips; s++) {
        int64_t begin = (x->d - width) * s / FGD_MAX(strips - 1, 1);
        FN(chunk_f)(x, begin, begin + width, width, packed, NULL, partial, bad);
    }
    free(packed);
    return 0;
}

static int FN(gram)(const fgd_rows *x, int64_t centre, fgd_split split, int64_t size, double *partial, fgd_job *job)
{
    float *packed = fgd_scratch(((x->n + 3) / 4 + 1) * 4 * split.block * 4);
    if (!packed)
        return -1;
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < split.chunks;) {
        int64_t begin = chunk * split.columns;
        memset(partial + chunk * size, 0, (size_t)size * sizeof *partial);
        FN(gram_chunk)(x, centre, begin, FGD_MIN(begin + split.columns, x->d), split.block, packed, partial + chunk * size);
    }
    free(packed);
    return 0;
}

static int FN(combine)(const fgd_rows *x, const double *weights, double divisor, const fgd_rows *out, fgd_job *job)
{
    fgd_combination w = {.n = x->n, .m = out->n, .weights = weights, .divisor = divisor};
    w.large = fgd_row_bytes(out) * w.m >= FGD_LARGE;
    if (w.m > 1 && fgd_combination_plan(&w))
        return -1;
    for (fgd_segment s = {0}; fgd_next_segment(x, &s, &job->next);) {
        const fgd_layer *layer = x->layer + s.layer, *y = out->layer + s.layer;
        int wide = layer->dtype == FGD_F64;
        if (w.m > 1)
            (wide ? FN(segment_mix_d) : FN(segment_mix_f))(layer, s.lo, s.hi, s.offset, &w, y, job);
        else if (w.m)
            (wide ? FN(segment_combine_d) : FN(segment_combine_f))(layer, s.lo, s.hi, s.offset, &w, y, job);
    }
    FN(streamed)();
    free(w.sums);
    return 0;
}

static int FN(scale)(const fgd_rows *x, const double *factor, const fgd_rows *out, fgd_job *job)
{
    for (fgd_segment s = {0}; fgd_next_segment(x, &s, &job->next);) {
        const fgd_layer *layer = x->layer + s.layer, *y = out->layer + s.layer;
        if (layer->dtype == FGD_F64)
            FN(segment_scale_d)(layer, x->n, s.lo, s.hi, factor, y);
        else
            FN(segment_scale_f)(layer, x->n, s.lo, s.hi, factor, y);
    }
    return 0;
}

static int FN(rank_mean)(const fgd_rows *x, int64_t first, int64_t window, int64_t moves, double divisor, int64_t tolerated,
                         const fgd_rows *out, fgd_job *job)
{
    void *tile = fgd_scratch((x->n + 15) / 16 * 16 * 4 * 64);
    if (!tile)
        return -1;
    for (fgd_segment s = {0}; fgd_next_segment(x, &s, &job->next);) {
        const fgd_layer *layer = x->layer + s.layer, *y = out->layer + s.layer;
        if (layer->dtype == FGD_F64)
            FN(segment_ranks_d)(layer, x->n, s.lo, s.hi, s.offset, tile, first, window, moves, divisor, tolerated, y, job);
        else
            FN(segment_ranks_f)(layer, x->n, s.lo, s.hi, s.offset, tile, first, window, moves, divisor, tolerated, y, job);
    }
    free(tile);
    return 0;
}

static int FN(sqdist_to)(const fgd_rows *x, const fgd_rows *point, fgd_split split, double *partial, char *bad, fgd_job *job)
{
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < split.chunks;) {
        int64_t at = chunk * split.columns, end = FGD_MIN(at + split.columns, x->d), k = 0, offset = 0;
        double *sums = partial + chunk * x->n;
        memset(sums, 0, (size_t)x->n * sizeof *sums);
        while (at < end) {
            const fgd_layer *layer = x->layer + k;
            if (at >= offset + layer->size) {
                offset += layer->size;
                k++;
                continue;
            }
            int64_t hi = FGD_MIN(FGD_MIN(offset + layer->size, end), at + split.block);
            const char *row = point ? fgd_row(point->layer + k, 0) : NULL;
            if (layer->dtype == FGD_F64)
                FN(segment_squares_d)(layer, row, x->n, at - offset, hi - offset, sums, bad);
            else
                FN(segment_squares_f)(layer, row, x->n, at - offset, hi - offset, sums, bad);
            at = hi;
        }
    }
    return 0;
}

static int FN(pairwise_row)(const fgd_rows *x, int64_t row, fgd_split split, double *partial, char *bad, fgd_job *job)
{
    int wide = fgd_any_double(x);
    int64_t many = FGD_POINT_BLOCK / split.block * split.block;
    void *scratch = fgd_scratch((9 * split.block + many) * (wide ? 8 : 4));
    if (!scratch)
        return -1;
    for (int64_t chunk; (chunk = fgd_take(&job->next)) < split.chunks;) {
        int64_t begin = chunk * split.columns, end = FGD_MIN(begin + split.columns, x->d);
        double *sums = partial + chunk * x->n;
        memset(sums, 0, (size_t)x->n * sizeof *sums);
        if (wide)
            FN(chunk_row_d)(x, row, begin, end, split.block, many, scratch, sums, bad);
        else
            FN(chunk_row_f)(x, row, begin, end, split.block, many, scratch, sums, bad);
    }
    free(scratch);
    return 0;
}
