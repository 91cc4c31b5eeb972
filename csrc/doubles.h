/* Doubles in vectors as wide as the machine's registers, for a body file (isa.h). Compilers take a comparison of wider vectors
 * apart, number by number. Eight lanes are PARTS vectors of WIDTH, so sums have the same bits on every instruction set.
 */
#ifdef FGD_LEVEL

#undef VEC
#undef INT
#undef WIDTH
#undef WORDS
#if FGD_LEVEL == 2
#define VEC v8d
#define INT v8i
#define WIDTH 8
#elif FGD_LEVEL == 1
#define VEC v4d
#define INT v4i
#define WIDTH 4
#else
#define VEC v2d
#define INT v2i
#define WIDTH 2
#endif
#define WORDS FN(words_d)
typedef uint64_t WORDS __attribute__((vector_size(8 * WIDTH)));
typedef double FN(anywhere_d) __attribute__((vector_size(8 * WIDTH), aligned(8)));

#undef ALL
#undef SELECT
#undef PARTS
#define PARTS (8 / WIDTH)
#define ALL(number) ((VEC){0} + (number))
#define SELECT(mask, a, b) (VEC)(((INT)(a) & (mask)) | ((INT)(b) & ~(mask))) /* mask: a comparison's */

/* The sum and the least of eight lanes. */
FGD_INLINE double FN(sum_d)(const VEC *x)
{
    double l[8];
    memcpy(l, x, sizeof l);
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}

FGD_INLINE double FN(least_d)(const VEC *x)
{
    double l[8], least;
    memcpy(l, x, sizeof l);
    least = l[0];
    for (int k = 1; k < 8; k++)
        least = FGD_MIN(least, l[k]);
    return least;
}

/* Numbers i .. of `count`; beyond them the last is repeated, and FN(inside_d) is 0. */
FGD_INLINE VEC FN(take_d)(const double *z, int64_t i, int64_t count)
{
    if (i + WIDTH <= count)
        return *(const FN(anywhere_d) *)(z + i);
    VEC v = {0};
    for (int l = 0; l < WIDTH; l++)
        v[l] = z[FGD_MIN(i + l, count - 1)];
    return v;
}

FGD_INLINE INT FN(inside_d)(int64_t i, int64_t count)
{
    VEC place = {0};
    for (int l = 0; l < WIDTH; l++)
        place[l] = (double)l;
    return place < (double)(count - i);
}

FGD_INLINE void FN(put_d)(double *w, int64_t i, int64_t count, VEC v)
{
    if (i + WIDTH <= count)
        *(FN(anywhere_d) *)(w + i) = v;
    else if (i < count)
        memcpy(w + i, &v, (size_t)(count - i) * sizeof *w);
}

#endif
