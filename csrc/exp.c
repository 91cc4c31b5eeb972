/* exp.h for single numbers, at the baseline. */
#include "exp_scalar.h"
#include "simd.h"

#define FGD_LEVEL 0
#define FN(name) name
#include "exp.h"

double fgd_exp(double x)
{
    VEC less;
    x = FGD_MIN(FGD_MAX(x, -800.0), 709.0);
    return exp_d(ALL(x), &less)[0];
}

double fgd_log(double x)
{
    return log_d(ALL(x))[0];
}

double fgd_log1p(double x)
{
    return x > -0.29 && x < 0.41 ? log_near_one_d(ALL(x), ALL(0.0))[0] : fgd_log(1.0 + x);
}
