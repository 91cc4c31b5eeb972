/* The choice of Krum and Multi-Krum from distances that are known up to an error: who is certainly among the m best, who
 * certainly is not, and whom only better distances can tell (docs/robust.md, "A certified choice").
 */
#include "robust_api.h"
#include "simd.h"

/* The m rows with the lowest (score, index) among those that are not bad, in ascending order of index; -1 where there are
 * fewer. A score is known up to the relative `error` of its distances. Rows that may or may not belong to the m are in
 * `doubt`; their number is returned, and as many -1 as are still to be chosen from them end `selected`. Equal rows have equal
 * scores, and so have two rows that are each other's only neighbour: there is no doubt which comes first. */
static int64_t fgd_choose(int64_t n, int64_t k, int64_t m, const double *sqdist, const double *scores, const char *bad,
                          double error, int64_t *selected, char *doubt)
{
    int64_t chosen = 0, doubtful = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t perhaps = 0, surely = 0; /* rows before i */
        double low = scores[i] * (1.0 - error), high = scores[i] * (1.0 + error);
        for (int64_t j = 0; j < n && surely < m && !bad[i]; j++) {
            if (bad[j] || j == i)
                continue;
            double apart = sqdist[i * n + j];
            if (scores[j] == scores[i] && (error == 0.0 || apart == 0.0 || (k == 1 && apart == scores[i]))) {
                surely += j < i;
                perhaps += j < i;
            } else {
                surely += scores[j] * (1.0 + error) < low;
                perhaps += scores[j] * (1.0 - error) <= high;
            }
        }
        doubt[i] = !bad[i] && surely < m && perhaps >= m;
        doubtful += doubt[i];
        if (!bad[i] && perhaps < m)
            selected[chosen++] = i;
    }
    while (chosen < m)
        selected[chosen++] = -1;
    return doubtful;
}

int fgd_robust_choose(const double *sqdist, int64_t n, int64_t k, int64_t m, double error, double *scores, const char *bad,
                      int64_t *selected, char *doubt, int64_t *doubtful)
{
    int failed = fgd_robust_krum_scores(sqdist, n, k, scores);
    if (!failed)
        *doubtful = fgd_choose(n, k, m, sqdist, scores, bad, error, selected, doubt);
    return failed;
}
