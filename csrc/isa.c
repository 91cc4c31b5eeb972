/* Which instruction-set level the clones of isa.h use. */
#include "fastgd.h"
#include "simd.h"

static int level = -1;

int fgd_isa_best(void)
{
#if FGD_X86_CLONES
    __builtin_cpu_init();
    int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("movbe") &&
             __builtin_cpu_supports("f16c");
    if (v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (v3)
        return 1;
#endif
    return 0;
}

int fgd_isa_current(void)
{
    if (level < 0)
        level = fgd_isa_best();
    return level;
}

void fgd_isa_use(int wanted)
{
    int best = fgd_isa_best();
    level = wanted < best ? (wanted < 0 ? 0 : wanted) : best;
}
