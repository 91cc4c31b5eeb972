/* Vectors as GCC vector extensions: the compiler maps them to zmm, ymm or xmm registers, with the same arithmetic.
 *
 * Sums run in lanes: 64 bytes, that is 16 floats or 8 doubles, whatever the width of the machine's registers. Lane l of a
 * row adds the coordinates l, l + 16, .. in order, so every instruction set gives the same bits.
 */
#ifndef FGD_SIMD_H
#define FGD_SIMD_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(FGD_PORTABLE)
#define FGD_X86_CLONES 1
#include <immintrin.h>
#else
#define FGD_X86_CLONES 0
#endif

typedef float v4f __attribute__((vector_size(16)));
typedef float v8f __attribute__((vector_size(32)));
typedef float v16f __attribute__((vector_size(64)));
typedef double v2d __attribute__((vector_size(16)));
typedef double v4d __attribute__((vector_size(32)));
typedef double v8d __attribute__((vector_size(64)));
typedef double v8d_anywhere __attribute__((vector_size(64), aligned(8)));
typedef uint16_t v16h __attribute__((vector_size(32)));
typedef int32_t v4si __attribute__((vector_size(16)));
typedef int32_t v8si __attribute__((vector_size(32)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef int64_t v2i __attribute__((vector_size(16)));
typedef int64_t v4i __attribute__((vector_size(32)));
typedef int64_t v8i __attribute__((vector_size(64)));

#define FGD_INLINE static inline __attribute__((always_inline))
#define FGD_NOINLINE static __attribute__((noinline))

#define FGD_MIN(a, b) ((a) < (b) ? (a) : (b))
#define FGD_MAX(a, b) ((a) > (b) ? (a) : (b))

/* The next chunk of a job: a ticket, taken atomically. */
static inline int64_t fgd_take(int64_t *next)
{
    return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
}

/* Keep in *value the lowest 1 + candidate, 0 standing for "none yet". */
static inline void fgd_lower(int64_t *value, int64_t candidate)
{
    int64_t seen = __atomic_load_n(value, __ATOMIC_RELAXED);
    while ((seen == 0 || candidate + 1 < seen) &&
           !__atomic_compare_exchange_n(value, &seen, candidate + 1, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* 64-byte aligned scratch; NULL when there is none. */
static inline void *fgd_scratch(int64_t bytes)
{
    return aligned_alloc(64, (size_t)((bytes + 63) & ~(int64_t)63) + 64);
}

#endif
