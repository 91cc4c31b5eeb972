/* CountSketch: how work is split, and the entry points. The kernels are in compress_sketches_body.h. */
#include "compress_api.h"
#include "rng.h"
#include "rows.h"

enum { FGD_SKETCH_ROWS = 255, FGD_SKETCH_TILE = 64 }; /* at most; coordinates whose median is taken at once */

/* Cells of a table in a payload lie anywhere. */
typedef float fgd_cell __attribute__((aligned(1), may_alias));

/* Which cells a coordinate is added to. */
typedef struct {
    uint64_t seed;
    uint32_t step;
    int64_t rows, columns;
} fgd_sketch;

/* The hash of a row: row r has the seed of rank r. */
FGD_INLINE fgd_hash_key fgd_sketch_key(const fgd_sketch *s, int64_t row, int64_t index)
{
    return fgd_hash_start(s->seed + fgd_mix64((uint64_t)row), s->step, (uint32_t)((uint64_t)index >> 32));
}

#define FGD_BODY "compress_sketches_body.h"
#include "isa.h"

enum { STREAM_BYTES = 16, SEED_BYTES = 8, STEP_BYTES = 4, SWEEP = 1 << 16, CELLS = 1 << 14 }; /* coordinates, cells of a ticket */

static const uint8_t *read_sketch(const fgd_payload *q, fgd_sketch *s)
{
    memcpy(&s->seed, q->body, sizeof s->seed);
    memcpy(&s->step, q->body + SEED_BYTES, sizeof s->step);
    s->rows = q->a;
    s->columns = q->b;
    return q->body + STREAM_BYTES;
}

int64_t fgd_compress_sketch_tickets(int64_t n)
{
    return (n + SWEEP - 1) / SWEEP;
}

int64_t fgd_compress_sketch_groups(int64_t rows, int64_t together)
{
    return (rows + together - 1) / together;
}

/* Add p / unit, rounded to integers, into `sums`. A ticket is a group of `together` rows and one of the `segments` of the
 * coordinates: with one segment it has its part of `sums` to itself, otherwise it adds a table of its own at the end. Returns -1
 * without memory. */
int fgd_compress_sketch_sums(const fgd_vector *x, const float *memory, fgd_mode mode, uint64_t seed, uint32_t step, int64_t rows,
                             int64_t columns, double per_unit, int64_t together, int64_t segments, int64_t *sums, fgd_job *job)
{
    fgd_sketch s = {seed, step, rows, columns};
    int64_t groups = fgd_compress_sketch_groups(rows, together), blocks = (x->n + FGD_BLOCK - 1) / FGD_BLOCK;
    uint64_t *own = segments > 1 ? fgd_scratch(together * columns * (int64_t)sizeof *own) : NULL;
    if (segments > 1 && !own)
        return -1;
    for (int64_t ticket; (ticket = fgd_take(&job->next)) < groups * segments;) {
        int64_t first = ticket / segments * together, last = FGD_MIN(rows, first + together), part = ticket % segments;
        int64_t lo = blocks * part / segments * FGD_BLOCK, hi = FGD_MIN(x->n, blocks * (part + 1) / segments * FGD_BLOCK);
        int64_t cells = (last - first) * columns;
        uint64_t *shared = (uint64_t *)sums + first * columns;
        if (own)
            memset(own, 0, (size_t)cells * sizeof *own);
        FGD_CALL(sketch_sums)(x, memory, mode, &s, first, last, per_unit, lo, hi, own ? own : shared);
        for (int64_t k = 0; own && k < cells; k++)
            if (own[k])
                __atomic_fetch_add(shared + k, own[k], __ATOMIC_RELAXED);
    }
    free(own);
    return 0;
}

int64_t fgd_compress_sketch_cells(int64_t cells)
{
    return (cells + CELLS - 1) / CELLS;
}

/* The table: float(double(sum) unit), at most the largest float. */
void fgd_compress_sketch_table(const int64_t *sums, int64_t cells, double unit, uint8_t *table, fgd_job *job)
{
    fgd_cell *cell = (fgd_cell *)table;
    for (int64_t lo; (lo = fgd_take(&job->next) * CELLS) < cells;)
        for (int64_t k = lo; k < FGD_MIN(lo + CELLS, cells); k++) {
            double v = (double)sums[k] * unit;
            cell[k] = (float)(v > 0x1.fffffep127 ? 0x1.fffffep127 : v < -0x1.fffffep127 ? -0x1.fffffep127 : v);
        }
}

/* The memory after c, which the table in `body` says. */
void fgd_compress_sketch_memory(const fgd_vector *x, float *memory, fgd_mode mode, int64_t rows, int64_t columns,
                                const uint8_t *body, fgd_job *job)
{
    fgd_payload q = {.n = x->n, .a = rows, .b = columns, .body = body};
    fgd_sketch s;
    const fgd_cell *table = (const fgd_cell *)read_sketch(&q, &s);
    for (int64_t lo; (lo = fgd_take(&job->next) * SWEEP) < x->n;)
        FGD_CALL(sketch_memory)(x, memory, mode, &s, table, lo, FGD_MIN(lo + SWEEP, x->n));
}

int fgd_check_countsketch(const fgd_payload *q)
{
    static const uint8_t none[4];
    if (memcmp(q->body + SEED_BYTES + STEP_BYTES, none, sizeof none))
        return 4;
    return FGD_CALL(sketch_finite)(q->body + STREAM_BYTES, q->a * q->b) ? 0 : 1;
}

void fgd_add_countsketch(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    fgd_sketch s;
    const fgd_cell *table = (const fgd_cell *)read_sketch(q, &s);
    FGD_CALL(sketch_decode)(&s, table, lo, hi, scale, add, out);
}
