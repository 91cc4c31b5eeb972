/* Sorting n rows of keys lane by lane, for one precision. Part of a body file (isa.h); included once per precision.
 *
 * Formula: Batcher's odd-even merge sort (1968) of groups of 16 rows that Green's network of 60 comparators has sorted.
 *          Merging two runs of m rows takes the steps m, m/2, .. 1: a step s compares row i with row i + s, for
 *          i = 0 .. m - 1 where s = m, else where i / s is odd. The smaller key goes to row i.
 * Cost:    about n log2(n)^2 / 4 comparators (a minimum and a maximum each), all in registers: 32 rows are sorted with one
 *          load and one store of each, and so is a pass of up to four steps of a merge. The last merge leaves out what
 *          the wanted ranks do not need.
 * Order:   a group's merges follow as soon as it is there, so runs are merged while they are in the nearest cache.
 *
 * Rows are `pitch` registers apart: a row of 64 bytes is one register or several, each sorted on its own. Rows beyond the
 * last would hold the largest keys for ever, so they are neither stored nor loaded.
 */

FGD_INLINE void TN(compare)(KEYS *low, KEYS *high)
{
    KEYS a = *low, b = *high;
    *low = KEYS_MIN(a, b);
    *high = KEYS_MAX(a, b);
}

/* Green's network on 16 registers. */
FGD_INLINE void TN(green)(KEYS *r)
{
#define C(i, j) TN(compare)(r + i, r + j);
    C(0, 13) C(1, 12) C(2, 15) C(3, 14) C(4, 8) C(5, 6) C(7, 11) C(9, 10)
    C(0, 5) C(1, 7) C(2, 9) C(3, 4) C(6, 13) C(8, 14) C(10, 15) C(11, 12)
    C(0, 1) C(2, 3) C(4, 5) C(6, 8) C(7, 9) C(10, 11) C(12, 13) C(14, 15)
    C(0, 2) C(1, 3) C(4, 10) C(5, 11) C(6, 7) C(8, 9) C(12, 14) C(13, 15)
    C(1, 2) C(3, 12) C(4, 6) C(5, 7) C(8, 10) C(9, 11) C(13, 14)
    C(1, 4) C(2, 6) C(5, 8) C(7, 10) C(9, 13) C(11, 14)
    C(2, 4) C(3, 6) C(9, 12) C(11, 13)
    C(3, 5) C(6, 8) C(7, 9) C(10, 12)
    C(3, 4) C(5, 6) C(7, 8) C(9, 10) C(11, 12)
    C(6, 7) C(8, 9)
#undef C
}

/* One step of a merge on registers that hold the rows first, first + 1, .. first + count - 1. */
FGD_INLINE void TN(step)(KEYS *r, const int first, const int count, const int step, const int odd)
{
#pragma GCC unroll 32
    for (int i = 0; i + step < count; i++)
        if ((first + i) / step % 2 == odd)
            TN(compare)(r + i, r + i + step);
}

/* Sort 16 or 32 rows completely, in registers. */
FGD_INLINE void TN(sort_rows)(KEYS *row, int64_t pitch, const int size)
{
    KEYS r[32];
#pragma GCC unroll 32
    for (int i = 0; i < size; i++)
        r[i] = row[i * pitch];
    TN(green)(r);
    if (size > 16) {
        TN(green)(r + 16);
        TN(step)(r, 0, 32, 16, 0);
        TN(step)(r, 0, 32, 8, 1);
        TN(step)(r, 0, 32, 4, 1);
        TN(step)(r, 0, 32, 2, 1);
        TN(step)(r, 0, 32, 1, 1);
    }
#pragma GCC unroll 32
    for (int i = 0; i < size; i++)
        row[i * pitch] = r[i];
}

/* The first steps, size/2 .. 1 in units of `pitch`, on `size` rows; those from `present` on do not exist. */
FGD_INLINE void TN(merge_first)(KEYS *row, int64_t pitch, int64_t present, const int size)
{
    KEYS r[16];
#pragma GCC unroll 16
    for (int i = 0; i < size; i++)
        r[i] = i < present ? row[i * pitch] : (KEYS){0} + INFINITE;
    TN(step)(r, 0, size, size / 2, 0);
    if (size > 8)
        TN(step)(r, 0, size, 4, 1);
    if (size > 4)
        TN(step)(r, 0, size, 2, 1);
    if (size > 2)
        TN(step)(r, 0, size, 1, 1);
#pragma GCC unroll 16
    for (int i = 0; i < size; i++)
        if (i < present)
            row[i * pitch] = r[i];
}

/* The steps 8, 4, 2, 1 in units of `pitch`, as a window of 23 registers slides over the rows: at row `at` it takes in the
 * rows at + 8 .. at + 23, of which `present` exist, and gives back at + 1 .. at + 16. A row leaves a step when its partner
 * has come in, so each smaller step lags behind the larger one: the window's last 8, 4, 2, 1 rows wait for the next. */
FGD_INLINE void TN(slide)(KEYS *r, KEYS *row, int64_t pitch, int64_t present, const int most)
{
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[7 + i] = i < present ? row[(8 + i) * pitch] : (KEYS){0} + INFINITE;
    TN(step)(r, 1, 7 + most, 8, 1);
    TN(step)(r, 1, FGD_MIN(19, 7 + most), 4, 1);
    TN(step)(r, 1, FGD_MIN(17, 7 + most), 2, 1);
    TN(step)(r, 1, FGD_MIN(16, 7 + most), 1, 1);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        if (i < 7 + present)
            row[(1 + i) * pitch] = r[i];
#pragma GCC unroll 7
    for (int i = 0; i < 7; i++)
        r[i] = r[16 + i];
}

/* Slide over a run of `count` rows so that the rows wanted .. end - 1 come out right. What is before a window's start has
 * no influence from 15 rows on. */
static void TN(merge_rest)(KEYS *row, int64_t pitch, int64_t count, int64_t wanted, int64_t end)
{
    KEYS r[23];
    int64_t at = wanted < 15 ? 0 : (wanted - 15) / 16 * 16;
    end = FGD_MIN(end, count);
#pragma GCC unroll 7
    for (int i = 0; i < 7; i++)
        r[i] = at + 1 + i < count ? row[(at + 1 + i) * pitch] : (KEYS){0} + INFINITE;
    for (; at + 24 <= count && at + 1 < end; at += 16)
        TN(slide)(r, row + at * pitch, pitch, 16, 16);
    for (; at + 1 < end; at += 16)
        if (at + 16 == count)
            TN(slide)(r, row + at * pitch, pitch, 8, 8);
        else
            TN(slide)(r, row + at * pitch, pitch, count - at - 8, 16);
}

/* Merge the runs of size/2 rows in the `count` rows from `row` on, as far as the ranks first .. last need. */
static void TN(merge)(KEYS *row, int64_t pitch, int64_t size, int64_t count, int64_t first, int64_t last)
{
    int shift = 4; /* rows 2^shift apart: the first steps are chosen such that fours are left */
    while (size >> shift > 16)
        shift += 4;
    int64_t apart = (int64_t)1 << shift;
    switch (size >> shift) {
#define CASE(rows)                                                                                                   \
    case rows:                                                                                                       \
        if (shift == 4 && count == size) /* with constants the compiler does better */                               \
            for (int64_t i = 0; i < 16; i++)                                                                         \
                TN(merge_first)(row + i * pitch, 16 * pitch, rows, rows);                                            \
        else                                                                                                         \
            for (int64_t i = 0; i < apart; i++)                                                                      \
                TN(merge_first)(row + i * pitch, apart * pitch, (count - i + apart - 1) >> shift, rows);             \
        break;
        CASE(2) CASE(4) CASE(8) CASE(16)
#undef CASE
    }
    while ((shift -= 4) >= 0) {
        int64_t margin = shift ? 3 : 0; /* the smaller steps reach less than 3 rows of this pass further */
        apart = (int64_t)1 << shift;
        for (int64_t i = 0; i < apart; i++)
            TN(merge_rest)(row + i * pitch, apart * pitch, (count - i + apart - 1) >> shift, (first >> shift) - margin,
                           (last >> shift) + margin + 1);
    }
}

enum { TN(GROUP) = 32 }; /* rows that are sorted at a time; n is a multiple of 16 */

/* After the group of rows that ends at row `end` of n: sort it, then merge the runs that it completes. */
static void TN(sort_group)(KEYS *row, int64_t pitch, int64_t begin, int64_t end, int64_t n, int64_t first, int64_t last)
{
    if (end - begin == TN(GROUP))
        TN(sort_rows)(row + begin * pitch, pitch, TN(GROUP));
    else
        TN(sort_rows)(row + begin * pitch, pitch, 16);
    for (int64_t size = 2 * TN(GROUP); size < 2 * n && (end % size == 0 || end == n); size *= 2) {
        int64_t base = (end - 1) / size * size;
        if (end - base > size / 2) {
            if (size < n)
                TN(merge)(row + base * pitch, pitch, size, end - base, 0, size - 1);
            else
                TN(merge)(row, pitch, size, n, first, last);
        }
    }
}
