/* The geometric median of n points known by their distances alone: the minimiser of sum_i a_i |v - x_i| over v.
 *
 * Formula: v = x_c + sum_i l_i (x_i - x_c), where x_c is the best of the points and G_ij = (D_ic + D_jc - D_ij) / 2 is the
 *          Gram matrix about it: |v - x_i|^2 = D_ic - 2 (G l)_i + l'G l, which is (D w)_i - w'D w / 2 for the weights w of v,
 *          without its cancellation near x_c. b_i = a_i / max(nu, |v - x_i|).
 *          A step is Newton's if that is no worse than Weiszfeld's, v = sum_i b_i x_i / sum_i b_i, and Weiszfeld's otherwise.
 *          Newton's Hessian is sum_i b_i (I - u_i u_i'), u_i the unit vector from v to x_i (without u_i u_i' for the points
 *          nearer than nu); its inverse needs the inner products of the u_i alone (Woodbury).
 * Start:   x_c is the answer if the others pull it with a force of at most a_c (Vardi, Zhang 2000). If not, their step away
 *          from it gives a start below all f(x_i), so that no point can trap a method that never goes up.
 * Cost:    n^3 / 3 + 6 n^2 operations a step, a handful of steps; (2 n + 18) n doubles.
 * Order:   ascending indices everywhere; plain C, compiled once, so that every machine gives the same bits.
 */
#include "robust_api.h"
#include "simd.h"

typedef struct {
    int64_t n, c;        /* points; which one is the origin */
    const double *share; /* a_i, of sum 1 */
    const double *gram;
    double smoothing;    /* nu */
} fgd_cluster;

/* A candidate v with all that is known of it. `image` is where Weiszfeld's step would take it. */
typedef struct {
    double *l, *y;             /* its coefficients, and G l */
    double *image, *image_y;   /* those of its image */
    double *reach, *b;         /* max(nu, |v - x_i|), a_i / reach_i */
    double square;             /* |v - x_c|^2 */
    double b_sum, others;      /* sum of b, and without b_c */
    double objective, gradient;
    char *near;                /* whether |v - x_i| < nu */
} fgd_candidate;

static double fgd_dot(int64_t n, const double *x, const double *y)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* y = G x, row by row of the symmetric matrix */
static void fgd_multiply(const fgd_cluster *s, const double *x, double *y)
{
    memset(y, 0, (size_t)s->n * sizeof *y);
    for (int64_t j = 0; j < s->n; j++)
        if (x[j] != 0.0)
            for (int64_t i = 0; i < s->n; i++)
                y[i] += x[j] * s->gram[j * s->n + i];
}

/* Everything about the candidate with coefficients v->l, whose v->y is known. */
static void fgd_evaluate(const fgd_cluster *s, fgd_candidate *v)
{
    double nu = s->smoothing;
    v->square = FGD_MAX(fgd_dot(s->n, v->l, v->y), 0.0);
    v->objective = v->others = 0.0;
    for (int64_t i = 0; i < s->n; i++) {
        double square = s->gram[i * s->n + i] - 2.0 * v->y[i] + v->square, distance = sqrt(FGD_MAX(square, 0.0));
        v->near[i] = distance < nu;
        v->reach[i] = FGD_MAX(FGD_MAX(distance, nu), 0x1p-300);
        v->b[i] = s->share[i] / v->reach[i];
        v->objective += s->share[i] * (v->near[i] ? 0.5 * (distance * distance / nu + nu) : distance);
        if (i != s->c)
            v->others += v->b[i];
    }
    v->b_sum = v->others + v->b[s->c];
    for (int64_t i = 0; i < s->n; i++)
        v->image[i] = i == s->c ? 0.0 : v->b[i] / v->b_sum;
    fgd_multiply(s, v->image, v->image_y);
    double step = 0.0; /* |image - v|^2 */
    for (int64_t i = 0; i < s->n; i++)
        step += (v->image[i] - v->l[i]) * (v->image_y[i] - v->y[i]);
    v->gradient = v->b_sum * sqrt(FGD_MAX(step, 0.0));
}

/* Newton's step from v into `to->l`; 0 when the Hessian is singular. M is scratch for n x n, t for 2 n doubles. */
static int fgd_newton(const fgd_cluster *s, const fgd_candidate *v, fgd_candidate *to, double *M, double *t)
{
    int64_t n = s->n;
    double *root = t + n, cross = fgd_dot(n, v->l, v->image_y);
    for (int64_t i = 0; i < n; i++) /* root_i = sqrt(b_i / b_sum); t = root * u_i'(image - v) */
        root[i] = v->near[i] ? 0.0 : sqrt(v->b[i] / v->b_sum);
    for (int64_t i = 0; i < n; i++)
        t[i] = root[i] * (v->image_y[i] - v->y[i] - cross + v->square) / v->reach[i];
    for (int64_t i = 0; i < n; i++) { /* M = I - diag(root) (u_i'u_j) diag(root) */
        double scale = root[i] / v->reach[i];
        for (int64_t j = 0; j < n; j++)
            M[i * n + j] = -scale * (root[j] / v->reach[j]) * (s->gram[i * n + j] - v->y[i] - v->y[j] + v->square);
        M[i * n + i] = 1.0 - root[i] * root[i];
    }
    M[s->c * n + s->c] = v->near[s->c] ? 1.0 : v->others / v->b_sum; /* near x_c, 1 - b_c / b_sum cancels */
    for (int64_t k = 0; k < n; k++) { /* Cholesky, the right-hand side along with it: M = R'R */
        double *pivot_row = M + k * n, pivot = pivot_row[k];
        if (!(pivot > 0x1p-50))
            return 0;
        double root_pivot = sqrt(pivot);
        for (int64_t j = k; j < n; j++)
            pivot_row[j] /= root_pivot;
        t[k] /= pivot_row[k];
        for (int64_t i = k + 1; i < n; i++) {
            double factor = pivot_row[i], *row = M + i * n;
            for (int64_t j = i; j < n; j++)
                row[j] -= factor * pivot_row[j];
            t[i] -= factor * t[k];
        }
    }
    for (int64_t k = n; k-- > 0;) {
        for (int64_t j = k + 1; j < n; j++)
            t[k] -= M[k * n + j] * t[j];
        t[k] /= M[k * n + k];
    }
    double sum = 0.0; /* v + sum_i beta_i (x_i - v), beta_i = (b_i + b_i u_i'step / reach_i) / b_sum */
    for (int64_t i = 0; i < n; i++) {
        t[i] = v->b[i] / v->b_sum + t[i] * root[i] / v->reach[i];
        sum += t[i];
    }
    for (int64_t i = 0; i < n; i++)
        to->l[i] = i == s->c ? 0.0 : (1.0 - sum) * v->l[i] + t[i];
    return 1;
}

/* The point with the least objective; its subgradient is zero if the pull of the others is at most its own weight. */
static int64_t fgd_best_point(int64_t n, const double *sqdist, const double *share, double nu)
{
    int64_t best = 0;
    double least = INFINITY;
    for (int64_t k = 0; k < n; k++) {
        double sum = 0.0;
        for (int64_t i = 0; i < n; i++) {
            double distance = sqrt(sqdist[k * n + i]);
            sum += share[i] * (distance < nu ? 0.5 * (distance * distance / nu + nu) : distance);
        }
        if (sum < least) {
            least = sum;
            best = k;
        }
    }
    return best;
}

/* The start into v->l, v->y; returns how far the origin is from being optimal: the norm of its least subgradient. */
static double fgd_leave_origin(const fgd_cluster *s, fgd_candidate *v)
{
    double total = 0.0, own = 0.0;
    for (int64_t i = 0; i < s->n; i++) {
        double distance = sqrt(s->gram[i * s->n + i]);
        v->l[i] = distance > 0.0 ? s->share[i] / distance : 0.0;
        total += v->l[i];
        own += distance > 0.0 ? 0.0 : s->share[i];
    }
    fgd_multiply(s, v->l, v->y);
    double pull = sqrt(FGD_MAX(fgd_dot(s->n, v->l, v->y), 0.0)), excess = pull - own;
    double step = excess > 0.0 ? excess / pull / total : 0.0;
    for (int64_t i = 0; i < s->n; i++) {
        v->l[i] *= step;
        v->y[i] *= step;
    }
    return FGD_MAX(excess, 0.0);
}

static void fgd_place(fgd_candidate *v, double **memory, int64_t n)
{
    double **arrays[] = {&v->l, &v->y, &v->image, &v->image_y, &v->reach, &v->b};
    for (int64_t k = 0; k < 6; k++, *memory += n)
        *arrays[k] = *memory;
    v->near = (char *)*memory;
    *memory += n / 8 + 1;
}

/* Whether a is a better place than b: the objective decides, and where rounding hides it, the gradient. */
static int fgd_better(const fgd_candidate *a, const fgd_candidate *b)
{
    double slack = 0x1p-50 * b->objective;
    return a->objective < b->objective - slack || (a->objective <= b->objective + slack && a->gradient < b->gradient);
}

static void fgd_swap(fgd_candidate *a, fgd_candidate *b)
{
    fgd_candidate c = *a;
    *a = *b;
    *b = c;
}

/* Weights of the geometric median of n points with squared distances `sqdist` (finite) and weights `share` (positive, of
 * sum 1). Returns 0 when the norm of the
 * gradient is at most tol or rounding lets neither it nor the objective fall any further, 1 after max_iter steps, -1 when
 * there is no memory. */
int fgd_robust_geometric_median(int64_t n, const double *sqdist, const double *share, double smoothing, double tol,
                                int64_t max_iter, double *weights, double *objective, int64_t *iterations)
{
    double *memory = fgd_scratch(8 * (2 * n * n + 21 * n + 3)), *gram = memory, *M = gram + n * n, *t = M + n * n;
    if (!memory)
        return -1;
    double *next = t + 2 * n;
    fgd_candidate v, weiszfeld, newton;
    fgd_place(&v, &next, n);
    fgd_place(&weiszfeld, &next, n);
    fgd_place(&newton, &next, n);
    fgd_cluster s = {n, fgd_best_point(n, sqdist, share, smoothing), share, gram, smoothing};
    const double *to_c = sqdist + s.c * n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            gram[i * n + j] = 0.5 * (to_c[i] + to_c[j] - sqdist[i * n + j]);

    int at_origin = fgd_leave_origin(&s, &v) <= tol + 0x1p-50 && smoothing == 0.0, status = !at_origin;
    fgd_evaluate(&s, &v);
    *iterations = 0;
    while (status) {
        status = v.gradient > tol;
        if (!status || *iterations == max_iter)
            break;
        memcpy(weiszfeld.l, v.image, (size_t)n * sizeof *v.l);
        memcpy(weiszfeld.y, v.image_y, (size_t)n * sizeof *v.l);
        fgd_evaluate(&s, &weiszfeld);
        if (fgd_newton(&s, &v, &newton, M, t)) {
            fgd_multiply(&s, newton.l, newton.y);
            fgd_evaluate(&s, &newton);
            if (fgd_better(&newton, &weiszfeld))
                fgd_swap(&newton, &weiszfeld);
        }
        status = fgd_better(&weiszfeld, &v);
        if (status) {
            fgd_swap(&weiszfeld, &v);
            ++*iterations;
        }
    }
    for (int64_t i = 0; i < n; i++)
        weights[i] = at_origin ? i == s.c : v.b[i] / v.b_sum;
    if (!at_origin) { /* what is returned is the image */
        memcpy(v.l, v.image, (size_t)n * sizeof *v.l);
        memcpy(v.y, v.image_y, (size_t)n * sizeof *v.l);
        fgd_evaluate(&s, &v);
    }
    *objective = v.objective;
    free(memory);
    return status;
}
