/* A chunk of rows of the semi-dual, for one instruction set (isa.h).
 *
 * Formula: e_j = exp(f_i + g_j - K_ij), s = sum e, f_i := f_i + log(a_i / s), P_ij = e_j a_i / s, c_j += P_ij; of the row all
 *          entries are kept but the smallest classes, while their sum is at most drop a_i. A class holds the numbers that share
 *          exponent and first three bits. Entries below drop a_i / (2 m) cannot exceed half of that together and fall in passing;
 *          a histogram of the classes of what is left says where the other half ends.
 * Cost:    one exponential an entry and two passes over a row that stays in the cache; no sorting.
 * Order:   sums over a row in eight lanes (column j in lane j mod 8), classes in rising order, c over rows ascending.
 */
#include "sinkhorn.h"
#include "sinkhorn_double.h"
#include "sinkhorn_exponentials.h"

/* i is where vector `part` of the next eight columns begins. */
#define FOR_COLUMNS(count)                               \
    for (int64_t first = 0; first < (count); first += 8) \
        for (int64_t part = 0, j = first; part < PARTS; part++, j += WIDTH)

FGD_INLINE unsigned FN(bits_d)(INT mask)
{
#if FGD_LEVEL == 2
    return _mm512_movepi64_mask((__m512i)mask);
#elif FGD_LEVEL == 1
    return (unsigned)_mm256_movemask_pd((__m256d)mask);
#else
    return (unsigned)((mask[0] & 1) | (mask[1] & 2));
#endif
}

/* P = e factor at e, added to c; entries of at least `floor` in their order at `value` and `column`. Returns how many; the sum of
 * the others at *lost. */
FGD_INLINE int64_t FN(newton_gather)(double *e, int64_t m, double factor, double floor, double *c, double *value, int32_t *column,
                                     double *lost)
{
    VEC small[PARTS] = {{0}};
    int64_t count = 0;
    FOR_COLUMNS(m) {
        VEC v = *(VEC *)(e + j) * factor;
        *(VEC *)(c + j) += v;
        INT large = v >= floor;
        small[part] += SELECT(large, ALL(0.0), v);
        unsigned bits = FN(bits_d)(large);
#if FGD_LEVEL == 2
        __m256i places = _mm256_add_epi32(_mm256_set1_epi32((int)j), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
        _mm512_storeu_pd(value + count, _mm512_maskz_compress_pd((__mmask8)bits, (__m512d)v));
        _mm256_storeu_si256((__m256i *)(column + count), _mm256_maskz_compress_epi32((__mmask8)bits, places));
        count += __builtin_popcount(bits);
#else
        for (; bits; bits &= bits - 1) {
            int l = __builtin_ctz(bits);
            value[count] = v[l];
            column[count++] = (int32_t)j + l;
        }
#endif
    }
    *lost = FN(sum_d)(small);
    return count;
}

/* The least number to keep, when what falls may add up to `budget`. */
static double FN(newton_threshold)(const double *value, int64_t count, double floor, double budget)
{
    double sums[NEWTON_CLASSES];
    int64_t low = newton_class(floor), high = low;
    for (int64_t k = 0; k < count; k++)
        high = FGD_MAX(high, newton_class(value[k]));
    memset(sums, 0, (size_t)(high - low + 1) * sizeof *sums);
    for (int64_t k = 0; k < count; k++)
        sums[newton_class(value[k]) - low] += value[k];
    double fallen = 0.0;
    while (low < high && fallen + sums[low - newton_class(floor)] <= budget)
        fallen += sums[low++ - newton_class(floor)];
    return newton_least(low);
}

/* Appends a row to what its chunk keeps. Returns the number of entries. */
static int64_t FN(newton_keep)(fgd_kept *kept, const double *value, const int32_t *column, int64_t count, double least, int64_t m)
{
    double *to = kept->value + kept->entries;
    int32_t *place = kept->column + kept->entries;
    int64_t found = 0;
    for (int64_t k = 0; k < count; k++) {
        to[found] = value[k];
        place[found] = column[k];
        found += value[k] >= least;
    }
    for (int64_t k = found; k < newton_round(found); k++) {
        to[k] = 0.0;
        place[k] = (int32_t)(m + (k & 7));
    }
    kept->entries += newton_round(found);
    return found;
}

/* Row `r` of those with mass. Returns 0 where memory ends. */
static int FN(newton_row)(const fgd_semidual *s, int64_t r, fgd_kept *kept, double *part, double *e)
{
    const fgd_transport *t = s->t;
    int64_t i = t->row[r], width = t->width;
    double f = t->f[i], a = t->a[i], base = f * LOG2E, lost, sum = 0.0, *value = e + width;
    int32_t *column = (int32_t *)(value + width + 8);
    if (fabs(f) < INFINITY)
        FN(exponentials_d)(t, 1, &i, &base, e, &sum);
    if (!(sum > SMALL && sum < LARGE)) {
        base = -FN(top_d)(t, i);
        s->f[i] = INFINITY;
        s->size[r] = 0;
        if (base == INFINITY)
            return 1;
        FN(exponentials_d)(t, 1, &i, &base, e, &sum);
    }
    double step = fgd_log(a / sum) + (base * LN2 - f);
    s->f[i] = f + step;
    part[width] -= a * step;
    part[width + 1] += a * (0x1p-51 * fabs(s->f[i])); /* a few roundings */
    double floor = newton_least(newton_class(FGD_MAX(s->drop * a / (double)(2 * t->m), 0x1p-1000)));
    int64_t count = FN(newton_gather)(e, t->m, a / sum, floor, part, value, column, &lost);
    double least = FN(newton_threshold)(value, count, floor, s->drop * a - lost);
    if (!newton_room(kept, newton_round(count)))
        return 0;
    int64_t before = kept->entries;
    kept->found += FN(newton_keep)(kept, value, column, count, least, t->width);
    s->size[r] = (int32_t)(kept->entries - before);
    return 1;
}

static int FN(newton_rows)(const fgd_semidual *s, int64_t chunk, double *e)
{
    int64_t rows = newton_chunk_rows(s->t->rows), lo = chunk * rows, hi = FGD_MIN(lo + rows, s->t->rows);
    double *part = s->part + chunk * (s->t->width + 8);
    fgd_kept *kept = s->kept + chunk;
    kept->entries = kept->found = 0;
    kept->rows = hi - lo;
    memset(part, 0, (size_t)(s->t->width + 8) * sizeof *part);
    for (int64_t r = lo; r < hi; r++)
        if (!FN(newton_row)(s, r, kept, part, e))
            return 0;
    return 1;
}

#include "sinkhorn_undefine.h"
