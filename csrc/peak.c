/* The benchmark's roofs: multiply-adds as fast as the machine issues them (the kernels are in peak_body.h), and loads whose
 * addresses nobody can guess. */
#include "fastgd.h"
#include "simd.h"

enum { FGD_CHAINS = 16 }; /* independent sums: more than latency x units of any machine so far */

#define FGD_BODY "peak_body.h"
#include "isa.h"

double fgd_peak(int64_t steps, int wide)
{
    return wide ? FGD_CALL(peak_d)(steps) : FGD_CALL(peak_f)(steps);
}

/* Each load's address is what the load before it found: next[i] is where to go from i. One chain waits a whole latency each
 * step; of FGD_CHAINS chains side by side the processor overlaps as many as it can. `at` is where the chains begin and,
 * afterwards, where they are, so that the next call meets lines that were not read lately. Returns the loads done. */
int64_t fgd_chase(const int64_t *next, int64_t *at, int overlapped, int64_t steps)
{
    if (!overlapped) {
        int64_t here = at[0];
        for (int64_t step = 0; step < steps; step++)
            here = next[here];
        at[0] = here;
        return steps;
    }
    for (int64_t step = 0; step < steps; step++) {
        _Pragma("GCC unroll 16") for (int i = 0; i < FGD_CHAINS; i++)
            at[i] = next[at[i]];
    }
    return FGD_CHAINS * steps;
}
