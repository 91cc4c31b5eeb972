/* PowerSGD: how work is split, the drawing of columns, and the entry points. The kernels are in compress_lowrank_body.h. */
#include "compress_api.h"
#include "simd.h"
#include "rows.h"
#include "rng.h"

enum {
    FGD_MOST_RANK = 64,
    FGD_ROW_LANES = 16,
    FGD_ROW_CHUNK = 1024,     /* elements of a row summed in float32 lanes before they are folded */
    FGD_SUM_ROWS = 64,        /* rows summed in float32 before the sum joins the total */
    FGD_PANEL = 16384,        /* entries of the right factor whose sums stay in the second-level cache */
    FGD_PANEL_COLUMNS = 4096, /* and columns of them, at most */
    FGD_FINISH_CHUNK = 256,   /* columns of the third pass whose sums wait for further ranks */
    FGD_AHEAD = 512,          /* elements fetched ahead in long rows; else the next four rows are */
    FGD_LONG = 2048,
    FGD_APART = 16,           /* added to lines that would lie a power of two apart, and share few places in the cache */
    FGD_TILE = 16384,         /* entries of the right factor turned for decoding, at least FGD_MOST_RANK */
    FGD_TILE_COLUMNS = 4096,  /* and columns of them, at most */
    FGD_TICKET = 1 << 16,     /* elements of a ticket of whole rows, about */
    FGD_DRAWS = 8,            /* of a column that vanishes */
};

#define FGD_DEAD 0x1p-46       /* what is left of a column, squared lengths, when it is no more than rounding errors */
#define FGD_DEAD_WARM 0x1p-20f /* a column of the right factor, beside the largest one, that is not used again */

typedef float v2f __attribute__((vector_size(8)));

static inline void fgd_put_float(uint8_t *body, int64_t index, float value)
{
    memcpy(body + 4 * index, &value, sizeof value);
}

/* An odd multiple of 2^-24 in (-1, 1), all equally likely, from element i of the hash. */
static inline float fgd_lowrank_draw(const fgd_lowrank *w, uint64_t i)
{
    uint32_t word = fgd_hash32((uint32_t)i, fgd_hash_start(w->seed, w->step, (uint32_t)(i >> 32)));
    return (float)(2 * (int32_t)(word >> 8) + 1 - (1 << 24)) * 0x1p-24f;
}

static inline int64_t fgd_ahead(int64_t columns)
{
    return columns > FGD_LONG ? FGD_AHEAD : 4 * columns;
}

#define FGD_BODY "compress_lowrank_body.h"
#include "isa.h"

/* Q, one line a rank. A column of the last right factor is scaled so that its largest magnitude lies in [1, 2); one that is not
 * finite, or tiny beside the largest, and all where there is none (`warm` NULL), are drawn. Cost: two reads of the factor. */
void fgd_lowrank_start(fgd_lowrank *w, const float *warm)
{
    float peak[FGD_MOST_RANK] = {0}, most = 0.0f;
    for (int64_t k = 0; warm && k < w->rank; k++) {
        for (int64_t j = 0; j < w->columns; j++) {
            float size = fabsf(warm[j * w->rank + k]);
            peak[k] = size <= peak[k] ? peak[k] : size; /* a NaN stays: nothing but another one is "not <=" */
            if (size != size)
                break;
        }
        if (peak[k] < INFINITY && peak[k] > most)
            most = peak[k];
    }
    for (int64_t k = 0; k < w->rank; k++) {
        float *q = w->right + k * w->pitch;
        if (peak[k] > 0.0f && peak[k] < INFINITY && peak[k] >= FGD_DEAD_WARM * most) {
            double unit = ldexp(1.0, -ilogb((double)peak[k]));
            for (int64_t j = 0; j < w->columns; j++)
                q[j] = (float)((double)warm[j * w->rank + k] * unit);
        } else
            for (int64_t j = 0; j < w->columns; j++)
                q[j] = fgd_lowrank_draw(w, (uint64_t)(j * w->rank + k));
    }
}

/* Whole rows of one ticket. */
static int64_t ticket_rows(int64_t columns)
{
    return (FGD_MAX(FGD_TICKET / columns, 1) + 3) / 4 * 4;
}

int64_t fgd_lowrank_row_tickets(const fgd_lowrank *w)
{
    return (w->rows + ticket_rows(w->columns) - 1) / ticket_rows(w->columns);
}

/* Columns of one ticket of the second pass: the more the better, as long as the sums stay in the cache and every thread has some.
 * No sum depends on it. */
int64_t fgd_lowrank_panel(const fgd_lowrank *w, int64_t threads)
{
    int64_t parts = threads > 1 ? 2 * threads : 1, share = ((w->columns + parts - 1) / parts + 15) / 16 * 16;
    return FGD_MIN(FGD_MIN(FGD_PANEL / w->rank / 16 * 16, FGD_PANEL_COLUMNS), FGD_MAX(share, 64));
}

void fgd_lowrank_left(fgd_lowrank *w, fgd_job *job)
{
    int64_t rows = ticket_rows(w->columns);
    for (int64_t lo; (lo = fgd_take(&job->next) * rows) < w->rows;) {
        uint32_t found = FGD_CALL(left_rows)(w, lo, FGD_MIN(lo + rows, w->rows));
        uint32_t seen = __atomic_load_n(&w->peak, __ATOMIC_RELAXED);
        while (found > seen && !__atomic_compare_exchange_n(&w->peak, &seen, found, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
    }
}

void fgd_lowrank_orthogonalise(const fgd_lowrank *w)
{
    FGD_CALL(orthogonalise)(w);
}

int fgd_lowrank_right(const fgd_lowrank *w, fgd_job *job)
{
    for (int64_t lo; (lo = fgd_take(&job->next) * w->panel) < w->columns;)
        if (FGD_CALL(right_columns)(w, lo, FGD_MIN(lo + w->panel, w->columns)))
            return -1;
    return 0;
}

void fgd_lowrank_finish(const fgd_lowrank *w, fgd_job *job)
{
    int64_t rows = ticket_rows(w->columns);
    for (int64_t lo; (lo = fgd_take(&job->next) * rows) < w->rows;)
        FGD_CALL(finish_rows)(w, lo, FGD_MIN(lo + rows, w->rows));
}

/* ---- decoding */

/* The most that an entry of the right factor may be: with rows of the left factor no longer than about 1, no sum of `rank`
 * products of them overflows. */
float fgd_lowrank_most(int64_t rank)
{
    float most = 0x1p127f;
    for (int64_t covered = 1; covered < rank; covered *= 4)
        most *= 0.5f;
    return most;
}

/* Rows of the left factor no longer than 1, but for rounding; entries of the right one within fgd_lowrank_most. NaN fails. */
int fgd_check_powersgd(const fgd_payload *q)
{
    int64_t rank = q->a, rows = q->n / q->b;
    float value, most = fgd_lowrank_most(rank);
    for (int64_t i = 0; i < rows; i++) {
        double length = 0.0;
        for (int64_t k = 0; k < rank; k++) {
            memcpy(&value, q->body + 4 * (i * rank + k), sizeof value);
            length += (double)value * (double)value;
        }
        if (!(length <= 1.0 + 0x1p-10))
            return 1;
    }
    for (int64_t j = rows * rank; j < (rows + q->b) * rank; j++) {
        memcpy(&value, q->body + 4 * j, sizeof value);
        if (!(fabsf(value) <= most))
            return 1;
    }
    return 0;
}

void fgd_add_powersgd(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    if (lo < hi)
        FGD_CALL(add_entries)(q->body, q->body + 4 * (q->n / q->b) * q->a, q->a, q->b, lo, hi, scale, add, out);
}
