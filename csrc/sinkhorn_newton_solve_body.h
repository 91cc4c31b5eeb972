/* Conjugate gradients under Jacobi's scaling, for one instruction set (isa.h).
 *
 * Formula: W = diag(a)^-1/2 P diag(d)^-1/2; of the semi-dual (I - W'W) y = r, of both potentials [I W; W' I] y = r; x = d^-1/2 y.
 * Cost:    an iteration reads W and W' once, 12 bytes an entry each, and the vectors three times. W' is kept beside W: a product is
 *          then gathered, not scattered, which costs memory and half the time.
 * Order:   an entry k of a row goes to lane k mod 8, lanes are folded as a tree; vectors in lanes alike.
 */
#include "doubles.h"

#define FOR_VECTORS(count)                               \
    for (int64_t first = 0; first < (count); first += 8) \
        for (int64_t part = 0, i = first; part < PARTS; part++, i += WIDTH)
#define AT(v) (*(VEC *)((v) + i))

FGD_INLINE VEC FN(newton_load)(const double *x, const int32_t *column)
{
#if FGD_LEVEL == 2
    return (VEC)_mm512_i32gather_pd(_mm256_loadu_si256((const __m256i *)column), x, 8);
#else
    VEC v;
    for (int l = 0; l < WIDTH; l++)
        v[l] = x[column[l]];
    return v;
#endif
}

/* y_r = row r of the matrix times x. Chunks lie one after another. */
static void FN(newton_product)(const fgd_kept *kept, int64_t chunks, const int32_t *size, const double *x, double *y)
{
    for (int64_t k = 0; k < chunks; k++) {
        const double *value = kept[k].value;
        const int32_t *column = kept[k].column;
        for (int64_t r = 0; r < kept[k].rows; r++) {
            VEC sum[PARTS] = {{0}};
            for (int64_t left = *size++; left > 0; left -= 8)
                for (int part = 0; part < PARTS; part++, value += WIDTH, column += WIDTH)
                    sum[part] += *(const FN(anywhere_d) *)value * FN(newton_load)(x, column);
            *y++ = FN(sum_d)(sum);
        }
    }
}

/* Values become W's, and W' is written behind it: rows of W in rising order. */
static void FN(newton_scale)(fgd_semidual *s, const double *scale, double *roots)
{
    int64_t r = 0;
    for (int64_t k = 0; k < s->chunks; k++) {
        double *value = s->kept[k].value;
        const int32_t *column = s->kept[k].column;
        for (int64_t end = r + s->kept[k].rows; r < end; r++) {
            double root = roots[r];
            for (int64_t left = s->size[r]; left > 0; left -= WIDTH, value += WIDTH, column += WIDTH)
                *(FN(anywhere_d) *)value = (*(FN(anywhere_d) *)value * root) * FN(newton_load)(scale, column);
        }
    }
}

/* y := (I - W'W) p, or [I W; W' I] p; returns p'y. `rows` is room for W p. */
static double FN(newton_hessian)(const fgd_semidual *s, const double *p, double *y, double *rows)
{
    int64_t m = s->t->width;
    VEC sum[PARTS] = {{0}};
    FN(newton_product)(s->kept, s->chunks, s->size, p, rows);
    FN(newton_product)(&s->turned, 1, s->turned_size, rows, y);
    FOR_VECTORS(m) {
        VEC q = AT(p) - AT(y);
        AT(y) = q;
        sum[part] += AT(p) * q;
    }
    return FN(sum_d)(sum);
}

/* x of the scaled system with the right side r, both of s->t->width numbers; p, q, rows: room. Returns the iterations. */
static int64_t FN(newton_gradients)(const fgd_semidual *s, double *x, double *r, double *p, double *q, double *rows)
{
    int64_t m = s->t->width, count = 0;
    VEC first_size[PARTS] = {{0}};
    FOR_VECTORS(m) {
        AT(x) = ALL(0.0);
        AT(p) = AT(r);
        first_size[part] += AT(r) * AT(r);
    }
    double size = FN(sum_d)(first_size), end = s->tol * s->tol * size;
    while (size > end && count < s->limit) {
        double curvature = FN(newton_hessian)(s, p, q, rows);
        if (!(curvature > 0.0))
            break;
        double alpha = size / curvature, before = size;
        VEC sum[PARTS] = {{0}};
        FOR_VECTORS(m) {
            VEC left = AT(r) - alpha * AT(q);
            AT(x) += alpha * AT(p);
            AT(r) = left;
            sum[part] += left * left;
        }
        size = FN(sum_d)(sum);
        double beta = size / before;
        FOR_VECTORS(m)
            AT(p) = AT(r) + beta * AT(p);
        count++;
    }
    if (count == 0)
        memcpy(x, r, (size_t)m * sizeof *x);
    return count;
}
