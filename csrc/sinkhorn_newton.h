/* What the files of the semi-dual's Newton method share: sparse rows in blocks of eight.
 *
 * A row is stored in whole blocks; places beyond its entries hold 0 and name one of eight columns beyond the last, where every
 * vector that rows are multiplied by has room and holds 0. So a product has no tails.
 */
#ifndef FGD_SINKHORN_NEWTON_H
#define FGD_SINKHORN_NEWTON_H

#include "fastgd.h"
#include "simd.h"
#include "sinkhorn_sweeps.h"

enum { NEWTON_CLASS = 49, NEWTON_CLASSES = 1024 }; /* bits of a class's number are shifted out; a row's classes at most */

static inline int64_t newton_chunk_rows(int64_t rows)
{
    return FGD_MAX(16, (rows + 31) / 32);
}

static inline int64_t newton_round(int64_t count)
{
    return (count + 7) & ~(int64_t)7;
}

static inline int64_t newton_class(double v)
{
    int64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits >> NEWTON_CLASS;
}

/* The least number of a class. */
static inline double newton_least(int64_t class)
{
    int64_t bits = class << NEWTON_CLASS;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Room for `count` more entries; 0 where there is none to be had. */
static inline int newton_room(fgd_kept *kept, int64_t count)
{
    int64_t needed = kept->entries + count;
    if (needed <= kept->room)
        return 1;
    int64_t room = newton_round(needed + needed / 2);
    double *value = realloc(kept->value, (size_t)room * sizeof *value);
    if (value)
        kept->value = value;
    int32_t *column = realloc(kept->column, (size_t)room * sizeof *column);
    if (column)
        kept->column = column;
    if (value && column)
        kept->room = room;
    return value && column;
}

#endif
