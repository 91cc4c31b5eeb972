/* The costs of sinkhorn.h for one instruction set and one precision: VEC holds WIDTH numbers REAL, TN(name) names its functions,
 * OF(t, field) is where it finds the problem's data. */
#ifdef FGD_LEVEL

typedef REAL TN(reals) __attribute__((vector_size(sizeof(REAL) * WIDTH), aligned(sizeof(REAL))));
typedef float TN(singles) __attribute__((vector_size(4 * WIDTH), aligned(4)));

FGD_INLINE VEC TN(distances)(const fgd_transport *t, int64_t i, int64_t j)
{
    const REAL *x = OF(t, x) + i * t->d, *y = OF(t, y) + j;
    VEC sum = {0};
    for (int64_t k = 0; k < t->d; k++) {
        VEC step = x[k] - *(const TN(reals) *)(y + k * t->width);
        sum += step * step;
    }
    return sum;
}

/* The costs where j + WIDTH <= m. */
FGD_INLINE VEC TN(inner_costs)(const fgd_transport *t, const int kind, int64_t i, int64_t j)
{
    if (kind == SINKHORN_SQUARES)
        return TN(distances)(t, i, j);
    if (kind == SINKHORN_DISTANCES) {
        VEC v = TN(distances)(t, i, j);
        for (int l = 0; l < WIDTH; l++) /* one instruction */
            v[l] = sizeof(REAL) == 8 ? (REAL)sqrt(v[l]) : (REAL)sqrtf((float)v[l]);
        return v;
    }
    if (kind == SINKHORN_F32)
        return __builtin_convertvector(*(const TN(singles) *)((const float *)OF(t, cost) + i * t->m + j), VEC);
    return *(const TN(reals) *)((const REAL *)OF(t, cost) + i * t->m + j);
}

FGD_INLINE VEC TN(costs)(const fgd_transport *t, const int kind, int64_t i, int64_t j)
{
    if (kind == SINKHORN_SQUARES || kind == SINKHORN_DISTANCES || j + WIDTH <= t->m)
        return TN(inner_costs)(t, kind, i, j);
    VEC v = ALL(INFINITY);
    for (int l = 0; l < t->m - j; l++) {
        int64_t at = i * t->m + j + l;
        v[l] = kind == SINKHORN_F32 ? (REAL)((const float *)OF(t, cost))[at] : ((const REAL *)OF(t, cost))[at];
    }
    return v;
}

#endif
