/* Four rows of a scaled sweep, or one: see sinkhorn_scaled.h. */
FGD_NOINLINE void FN(scaled_rows)(const fgd_transport *t, int count, int64_t i, float *c, double *part)
{
    const int64_t *row = t->row + i, width = t->width;
    const float *q = t->plan + i * width, *v = t->shifts;
    float factor[4] = {0};
    fgd_update u = {.count = count};
    VEC lanes[4][PARTS] = {{{0}}};
    for (int64_t j = 0; j < t->m; j += WIDTH * PARTS)
        for (int64_t p = 0, at = j; p < PARTS; p++, at += WIDTH) {
            VEC step = *(const VEC *)(v + at);
            lanes[0][p] += *(const VEC *)(q + at) * step;
            if (count == 4) {
                lanes[1][p] += *(const VEC *)(q + width + at) * step;
                lanes[2][p] += *(const VEC *)(q + 2 * width + at) * step;
                lanes[3][p] += *(const VEC *)(q + 3 * width + at) * step;
            }
        }
    for (int r = 0; r < count; r++) {
        u.base[r] = t->base_f[row[r]];
        u.sum[r] = t->base_rows[row[r]] + FN(total_f)(lanes[r]);
        u.sum[r] = FGD_MAX(u.sum[r], 0.0);
    }
    FN(update)(t, row, &u);
    for (int r = 0; r < count; r++) {
        double step = u.factor[r] - 1.0;
        factor[r] = (float)step;
        t->f[row[r]] = u.next[r];
        part[width] += u.error[r];
        part[width + 1] = u.sum[r] > 0.0 ? FGD_MAX(part[width + 1], fabs(step)) : INFINITY;
    }
    FN(add_f)(t, count, factor, q, c);
}

static void FN(scaled_chunk)(const fgd_transport *t, int64_t lo, int64_t hi, float *c, double *part)
{
    int64_t i = lo;
    memset(c, 0, (size_t)t->width * sizeof *c);
    part[t->width] = part[t->width + 1] = 0.0;
    for (; i + 4 <= hi; i += 4)
        FN(scaled_rows)(t, 4, i, c, part);
    for (; i < hi; i++)
        FN(scaled_rows)(t, 1, i, c, part);
    for (int64_t j = 0; j < t->width; j++)
        part[j] = (double)c[j];
}
