/* Vectors of 64 bytes as GCC vector extensions: one zmm, two ymm or four xmm registers, the same arithmetic in each. */
#ifndef FGD_SIMD_H
#define FGD_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FGD_X86_CLONES 1
#include <immintrin.h>
#else
#define FGD_X86_CLONES 0
#endif

typedef float v16f __attribute__((vector_size(64)));
typedef double v8d __attribute__((vector_size(64)));
typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef int64_t v8i __attribute__((vector_size(64)));

#define FGD_INLINE static inline __attribute__((always_inline))

#endif
