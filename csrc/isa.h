/* Instruction-set clones without intrinsics dispatch tables: a body file is compiled once per level.
 *
 * A source file defines FGD_BODY as the name of its body and includes this file. The body is included once per level with
 * FN(name) naming that level's functions (name_v4, name_v3, name_default) and FGD_LEVEL set to 2, 1 or 0; all compiler
 * passes, vector lowering included, then work for the right target. (gcc's target_clones lowers vector types before it
 * makes the clones, and offers no way to force a lower clone at run time.) FGD_CALL(name)(...) calls the level in use.
 */
#include "simd.h"

#define FGD_PASTE_(a, b) a##_##b
#define FGD_PASTE(a, b) FGD_PASTE_(a, b)
#define FN(name) FGD_PASTE(name, FGD_SUFFIX)

#if FGD_X86_CLONES

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define FGD_LEVEL 2
#define FGD_SUFFIX v4
#include FGD_BODY
#undef FGD_LEVEL
#undef FGD_SUFFIX
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define FGD_LEVEL 1
#define FGD_SUFFIX v3
#include FGD_BODY
#undef FGD_LEVEL
#undef FGD_SUFFIX
#pragma GCC pop_options

#define FGD_CALL(name) (fgd_isa_current() == 2 ? name##_v4 : fgd_isa_current() == 1 ? name##_v3 : name##_default)
#else
#define FGD_CALL(name) name##_default
#endif

#define FGD_LEVEL 0
#define FGD_SUFFIX default
#include FGD_BODY
#undef FGD_LEVEL
#undef FGD_SUFFIX
