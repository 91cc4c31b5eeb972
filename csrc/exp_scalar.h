/* exp, exp - 1, log and log(1 + x) of exp.h for single numbers, for functions outside the clones: the same bits as theirs. Comes
 * before isa.h. */
#ifndef FGD_EXP_SCALAR_H
#define FGD_EXP_SCALAR_H

#include "simd.h"

#define FGD_LEVEL 0
#define FN(name) name##_scalar
#include "exp.h"

FGD_INLINE double fgd_exp(double x) /* x is brought between -800 and 709 */
{
    VEC less;
    x = FGD_MIN(FGD_MAX(x, -800.0), 709.0);
    return exp_d_scalar(ALL(x), &less)[0];
}

FGD_INLINE double fgd_expm1(double x)
{
    VEC less;
    x = FGD_MIN(FGD_MAX(x, -800.0), 709.0);
    exp_d_scalar(ALL(x), &less);
    return less[0];
}

FGD_INLINE double fgd_log(double x) /* of finite x >= 0 */
{
    return x > 0.0 ? log_d_scalar(ALL(x))[0] : -INFINITY;
}

FGD_INLINE double fgd_log1p(double x) /* of finite x > -1 */
{
    return x > -0.29 && x < 0.41 ? log_near_one_d_scalar(ALL(x), ALL(0.0))[0] : fgd_log(1.0 + x);
}

#undef FN
#undef FGD_LEVEL
#endif
