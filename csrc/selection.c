/* Bulyan's first phase: logic on an n x n matrix of distances, in one thread.
 *
 * Formula: theta times: among the vectors left, r of them, take the one whose max(1, r - f - 2) nearest others have the least
 *          sum of squared distances; the lowest index on ties; never a bad one.
 * Cost:    theta n^2 compensated additions.
 * Order:   ascending distance, compensated as in the scores of Krum, so that both rules break ties alike. No score is made
 *          by subtraction from an earlier one: that would cancel beside a distance of 1e76, and fail beside Inf.
 */
#include "robust_api.h"
#include "simd.h"

/* Sum of the `k` least distances of vector i to others that are left; `order` lists its row of distances, ascending. */
static double fgd_score(const double *sqdist, const int64_t *order, const char *left, int64_t n, int64_t i, int64_t k)
{
    double sum = 0.0, error = 0.0;
    for (int64_t place = 0; place < n && k > 0; place++) {
        int64_t j = order[place];
        if (!left[j] || j == i)
            continue;
        double term = sqdist[j], next = sum + term, back = next - sum;
        error += (sum - (next - back)) + (term - back);
        sum = next;
        k--;
    }
    return sum < INFINITY ? sum + error : INFINITY;
}

int fgd_robust_bulyan_select(const double *sqdist, const int64_t *order, int64_t n, int64_t f, const char *bad, char *selected)
{
    char *left = fgd_scratch(n);
    if (!left)
        return -1;
    memset(left, 1, (size_t)n);
    memset(selected, 0, (size_t)n);
    for (int64_t r = n; r > 2 * f; r--) {
        int64_t best = -1, k = FGD_MAX(r - f - 2, 1);
        double least = INFINITY;
        for (int64_t i = 0; i < n; i++) {
            if (!left[i] || bad[i])
                continue;
            double score = fgd_score(sqdist + i * n, order + i * n, left, n, i, k);
            if (best < 0 || score < least) {
                best = i;
                least = score;
            }
        }
        if (best < 0)
            break;
        left[best] = 0;
        selected[best] = 1;
    }
    free(left);
    return 0;
}
