/* The arithmetic roof of the benchmark: multiply-adds as fast as the machine issues them. The kernels are in peak_body.h. */
#include "fastgd.h"
#include "simd.h"

enum { FGD_CHAINS = 16 }; /* independent sums: more than latency x units of any machine so far */

#define FGD_BODY "peak_body.h"
#include "isa.h"

double fgd_peak(int64_t steps, int wide)
{
    return wide ? FGD_CALL(peak_d)(steps) : FGD_CALL(peak_f)(steps);
}
