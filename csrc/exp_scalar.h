/* exp, log and log(1 + x) of exp.h for single numbers, for functions outside the clones: the same bits as theirs. */
#ifndef FGD_EXP_SCALAR_H
#define FGD_EXP_SCALAR_H

double fgd_exp(double x);   /* x is brought between -800 and 709 */
double fgd_log(double x);   /* of finite x > 0 */
double fgd_log1p(double x); /* of finite x > -1 */

#endif
