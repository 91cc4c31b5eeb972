/* What the files of the uncertainty sets share: kinds, phases, and the arithmetic of references. */
#ifndef FGD_DRO_SETS_H
#define FGD_DRO_SETS_H

#include "dro_api.h"
#include "simd.h"
#include "rows.h"

enum { SET_BLOCK = 2048, SET_TICKET = 16, SET_PART = 8, SET_SAMPLED = 1 << 13 }; /* elements; blocks; numbers; n */
enum { SET_LINEAR, SET_TILTED, SET_CAPPED, SET_QUANTILE };
enum { SET_RANGE, SET_MOMENTS, SET_TILT, SET_COUNT, SET_WRITE_LINEAR, SET_WRITE_TILTED, SET_WRITE_SIDES };

/* Integers in the order of the doubles, and back. */
static inline int64_t set_image(double v)
{
    int64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits < 0 ? bits ^ INT64_MAX : bits;
}

static inline double set_number(int64_t image)
{
    int64_t bits = image < 0 ? image ^ INT64_MAX : image;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The e with 2^(e - 1) <= high - low < 2^e, whatever the difference. */
static inline int32_t set_exponent(double high, double low)
{
    int e, halved = high - low == INFINITY;
    frexp(halved ? 0.5 * high - 0.5 * low : high - low, &e);
    return e + halved;
}

/* y = (z - c) 2^-e from now on. A first factor keeps all that matters within range: differences may be infinite, or below
 * 2^-1022, though no z is. What is farther than that below c becomes -infinity, and counts as that. */
static inline void set_reference(fgd_set *s, double c, int32_t e)
{
    s->e = FGD_MAX(e, -1073);
    s->c = c;
    s->head = s->e > 1020 ? 0.5 : s->e < -900 ? 0x1p100 : 1.0;
    s->centre = c * s->head;
    s->scale = ldexp(1.0 / s->head, -s->e);
    s->top = (s->high * s->head - s->centre) * s->scale;
}

/* c + 2^e y */
static inline double set_place(const fgd_set *s, double y)
{
    return s->e > 1020 ? 2.0 * (0.5 * s->c + ldexp(y, s->e - 1)) : s->c + ldexp(y, s->e);
}

/* The last pass: weights by the side of c. */
static inline int set_finish_sides(fgd_set *s, double c, double above, double equal, double below)
{
    set_reference(s, c, set_exponent(s->high, c));
    s->above = above;
    s->equal = equal;
    s->below = below;
    s->phase = SET_WRITE_SIDES;
    return 1;
}

/* .. all alike on those that equal the largest, nothing but the floor on the others. */
static inline int set_finish_ties(fgd_set *s)
{
    double least = s->floor / (double)s->n;
    s->value = s->high;
    return set_finish_sides(s, s->high, 0.0, s->ties == (double)s->n ? 1.0 / s->ties : least + (1.0 - s->floor) / s->ties, least);
}

int set_begin_tilt(fgd_set *s);
int set_begin_count(fgd_set *s);
int set_begin_caps(fgd_set *s, double quantile);
int set_fold_spread(fgd_set *s, const double *sum);
int set_fold_tilt(fgd_set *s, const double *sum);
int set_fold_caps(fgd_set *s, const double *sum);

#endif
