/* Semi-discrete transport, for one instruction set (isa.h): stochastic gradients of the semi-dual, and cells.
 *
 * Formula: chi_j ~ w_j exp((g_j - c(x, y_j)) / reg), sum chi = 1, or at reg = 0 one at the largest g_j - c_j;
 *          g <- clip(g - step (mean chi - w), +-bound), average <- average + share (g - average).
 * Cost:  a draw and atom: 3 d operations, and an exponential where exp(-40) of the largest is not below it.
 * Order: atom j goes to lane j mod 8; lanes are folded as a tree; draws of a batch in turn. Atoms are padded to a multiple of 8
 *        with y = inf, so that their score is -inf.
 */
#include "exp.h"

#define FOR_ATOMS(s) for (int64_t first = 0; first < (s)->width; first += 8) \
    for (int64_t part = 0, j = first; part < PARTS; part++, j += WIDTH)
#define AT(array, j) (*(FN(anywhere_d) *)((array) + (j)))
#define READ(array, j) (*(const FN(anywhere_d) *)((array) + (j)))

/* g_j - c(x, y_j). */
FGD_INLINE VEC FN(score)(const fgd_atoms *s, const double *x, int64_t j)
{
    VEC sum = {0};
    for (int64_t k = 0; k < s->d; k++) {
        VEC gap = x[k] - READ(s->y + k * s->width, j);
        sum += gap * gap;
    }
    return READ(s->g, j) - s->factor * sum;
}

FGD_INLINE int FN(any)(INT mask)
{
    int64_t found = 0;
    for (int l = 0; l < WIDTH; l++)
        found |= mask[l];
    return found != 0;
}

/* The largest score and its first atom. */
FGD_INLINE double FN(best)(const fgd_atoms *s, const double *x, int64_t *index)
{
    VEC top[PARTS], place[PARTS], own = {0};
    for (int l = 0; l < WIDTH; l++)
        own[l] = (double)l;
    for (int p = 0; p < PARTS; p++) {
        top[p] = ALL(-INFINITY);
        place[p] = ALL(0.0);
    }
    FOR_ATOMS(s) {
        VEC score = FN(score)(s, x, j);
        INT better = score > top[part];
        top[part] = SELECT(better, score, top[part]);
        place[part] = SELECT(better, own + (double)j, place[part]);
    }
    double tops[8], places[8];
    memcpy(tops, top, sizeof tops);
    memcpy(places, place, sizeof places);
    int best = 0;
    for (int l = 1; l < 8; l++)
        if (tops[l] > tops[best] || (tops[l] == tops[best] && places[l] < places[best]))
            best = l;
    *index = (int64_t)places[best];
    return tops[best];
}

/* chi += share times the softmax of x; returns min over j of c - g, smoothed: -reg log sum_j w_j exp((g_j - c_j) / reg). */
FGD_INLINE double FN(soften)(const fgd_atoms *s, const double *x, double reg, double share, double *u, double *chi)
{
    VEC top[PARTS], sum[PARTS] = {{0}};
    for (int p = 0; p < PARTS; p++)
        top[p] = ALL(INFINITY); /* negated, for least_d */
    FOR_ATOMS(s) {
        VEC scaled = FN(score)(s, x, j) / reg + READ(s->log_w, j);
        AT(u, j) = scaled;
        top[part] = SELECT(-scaled < top[part], -scaled, top[part]);
    }
    double most = -FN(least_d)(top);
    FOR_ATOMS(s) {
        VEC below = READ(u, j) - most, less;
        INT counts = below > -40.0;
        if (FN(any)(counts)) {
            VEC e = FN(exp_d)(SELECT(counts, below, ALL(0.0)), &less);
            below = SELECT(counts, e, ALL(0.0));
            sum[part] += below;
        } else {
            below = ALL(0.0);
        }
        AT(u, j) = below;
    }
    double total = FN(sum_d)(sum);
    FOR_ATOMS(s)
        AT(chi, j) += READ(u, j) * (share / total);
    return -reg * (most + fgd_log(total));
}

static void FN(descend)(const fgd_atoms *s, const double *x, int64_t steps, int64_t batch, const fgd_descent *by, double *value)
{
    double *u = by->work, *chi = u + s->width, share = 1.0 / (double)batch;
    for (int64_t t = 0; t < steps; t++) {
        double found = 0.0;
        memset(chi, 0, (size_t)s->width * sizeof *chi);
        for (int64_t draw = 0; draw < batch; draw++, x += s->d) {
            if (by->reg[t] > 0.0) {
                found += FN(soften)(s, x, by->reg[t], share, u, chi);
            } else {
                int64_t index;
                found -= FN(best)(s, x, &index);
                chi[index] += share;
            }
        }
        VEC held[PARTS] = {{0}};
        double step = by->step[t], bound = by->bound[t], weight = by->share[t];
        FOR_ATOMS(s) {
            VEC g = READ(s->g, j), w = READ(s->w, j);
            held[part] += w * g;
            g -= step * (READ(chi, j) - w);
            g = SELECT(g > bound, ALL(bound), SELECT(g < -bound, ALL(-bound), g));
            AT(s->g, j) = g;
            AT(by->average, j) += weight * (g - READ(by->average, j));
        }
        value[t] = found * share + FN(sum_d)(held);
    }
}

static void FN(assign)(const fgd_atoms *s, const double *x, int64_t lo, int64_t hi, int64_t *index, double *least)
{
    for (int64_t i = lo; i < hi; i++)
        least[i] = -FN(best)(s, x + i * s->d, index + i);
}

#undef FOR_ATOMS
#undef AT
#undef READ
