/* exp.h for single numbers, at the baseline. */
#include "exp_scalar.h"
#include "simd.h"

#define FGD_LEVEL 0
#define FN(name) name
#include "exp.h"

double fgd_exp(double x)
{
    v8d less;
    return exp8((v8d){0} + x, &less)[0];
}

double fgd_log(double x)
{
    return log8((v8d){0} + x)[0];
}

double fgd_log1p(double x)
{
    return x > -0.29 && x < 0.41 ? log_near_one((v8d){0} + x, (v8d){0})[0] : fgd_log(1.0 + x);
}
