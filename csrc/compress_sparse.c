/* TopK, Threshold and RandK: how work is split, selection, decoding, the entry points. The kernels are in compress_sparse_body.h.
 *
 * TopK. A sample brackets the k-th largest magnitude, and one pass is enough: what is at least as large as the lower bound
 * becomes a candidate, and the k-th largest magnitude is looked for among those candidates that are below the upper one. Where
 * there are fewer than k candidates, or more than there is room for, histograms over the whole vector find it digit by digit.
 * Chunks are worked on in any order, but each keeps its place in the result: counts a chunk, added up in order, say where.
 */
#include "compress_api.h"
#include "simd.h"
#include "rows.h"
#include "rng.h"

#include <float.h>

enum {
    FGD_SPARSE_CHUNK = 1 << 14,
    FGD_SPARSE_BINS = 2048, /* of a histogram over the vector */
    FGD_SAMPLE_LINE = 16,
    FGD_CORRECTED = 256, /* elements of the memory that are corrected together */
    FGD_VALUES_BUCKET = 512, /* values that share a step */
    FGD_QUANTISE_TICKET = 16, /* buckets */
    FGD_RANDK_BATCH = 512,
    FGD_RANDK_TICKET = 16, /* batches */
    FGD_RANDK_ROUNDS = 8,
    FGD_RANDK_LEAST = 8
};

/* The permutation of RandK (docs/wire.md): a network on pairs (l, r), 0 <= l < a, 0 <= r < b. */
typedef struct {
    uint64_t n;
    uint32_t a, b;
    fgd_hash_key key[FGD_RANDK_ROUNDS];
} fgd_network;

#define FGD_BEYOND 0x80000000u /* above every magnitude */

#define FGD_BODY "compress_sparse_body.h"
#include "isa.h"

/* A chunk's row in fgd_topk.chunk. */
enum { FGD_FIRST, FGD_COUNT, FGD_START, FGD_TIES, FGD_FIELDS };

int64_t fgd_sparse_chunks(int64_t n)
{
    return (n + FGD_SPARSE_CHUNK - 1) / FGD_SPARSE_CHUNK;
}

int64_t fgd_sparse_bins(void)
{
    return FGD_SPARSE_BINS;
}

/* Take chunks until none is left: elements `lo` .. `lo + count - 1`. */
#define FOR_CHUNKS(n, job)                                                                             \
    for (int64_t c, lo, count; (c = fgd_take(&(job)->next)) * FGD_SPARSE_CHUNK < (n) &&                \
                               (lo = c * FGD_SPARSE_CHUNK, count = FGD_MIN((n) - lo, FGD_SPARSE_CHUNK)) > 0;)

void fgd_sparse_add(const fgd_vector *x, float *memory, fgd_job *job)
{
    FOR_CHUNKS(x->n, job)
        FGD_CALL(add_chunk)(x, memory, lo, count);
}

/* ---- TopK */

static uint32_t magnitude(uint32_t bits)
{
    return bits & 0x7fffffffu;
}

/* Magnitudes around that of rank k: `key`, which k elements reach but for bad luck, though hardly more; `middle`, of about rank
 * k; and `upper`, which fewer reach. Four standard deviations of a sample: lines of 16 elements, one from each of equal
 * parts of the vector. */
int fgd_topk_sample(fgd_topk *t)
{
    int64_t n = t->x.n, lines = FGD_MIN(n / 1024, 4096), part = n / lines, size = lines * FGD_SAMPLE_LINE;
    uint32_t *value = fgd_scratch(2 * (size + FGD_SAMPLE_LINE) * (int64_t)sizeof *value), *some = value + size;
    if (!value)
        return -1;
    FGD_CALL(load_sample)(&t->x, t->memory, t->mode, lines, part, value);
    double expected = (double)t->k / (double)n * (double)size, margin = 4.0 * sqrt(expected) + 8.0;
    int64_t rank[3] = {(int64_t)(expected + margin), (int64_t)expected, (int64_t)(expected - margin)};
    uint32_t *bound[3] = {&t->key, &t->middle, &t->upper}, low = 0;
    for (int b = 0; b < 3; b++) { /* each among those that reach the one before */
        int64_t count = FGD_CALL(between)(value, size, low, FGD_BEYOND, some);
        low = rank[b] > 0 ? FGD_CALL(kth_largest)(some, count, rank[b], low, FGD_BEYOND) : FGD_BEYOND;
        *bound[b] = low;
    }
    free(value);
    return 0;
}

/* Most candidates of at least `middle` are kept, and in FEEDBACK with 32 bits that leaves 0 in the memory: it is written while
 * they are in the cache, and corrected where the guess was wrong. */
static int clears(const fgd_topk *t)
{
    return t->after == FGD_FEEDBACK && t->bits == 32 && t->index;
}

static void restore(const fgd_topk *t, const uint32_t *index, const uint32_t *value, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        memcpy(t->memory + index[j], value + j, sizeof *value);
}

/* Room for a chunk's candidates, `*half` indices and as many values: little for a short vector, which saves pages of its own. */
static uint32_t *room_for_chunk(const fgd_topk *t, int64_t *half)
{
    *half = FGD_MIN(t->x.n, FGD_SPARSE_CHUNK);
    return fgd_scratch(2 * *half * (int64_t)sizeof(uint32_t));
}

/* Candidates of all chunks; the memory of FEEDBACK becomes p, 0 at those of at least `middle` where it `clears`. */
int fgd_topk_scan(fgd_topk *t, fgd_job *job)
{
    int64_t half;
    uint32_t *list = room_for_chunk(t, &half);
    if (!list)
        return -1;
    FOR_CHUNKS(t->x.n, job) {
        uint32_t *values = list + half;
        int64_t found = FGD_CALL(scan)(&t->x, t->memory, t->mode, clears(t) ? t->middle : FGD_BEYOND, lo, count, t->key,
                                       (uint8_t *)list, (uint8_t *)values);
        int64_t first = __atomic_fetch_add(&t->used, found, __ATOMIC_RELAXED), *row = t->chunk + c * FGD_FIELDS;
        row[FGD_FIRST] = first;
        row[FGD_COUNT] = found;
        if (first + found > t->capacity) { /* `used` tells */
            if (clears(t))
                restore(t, list, values, found);
            row[FGD_COUNT] = 0;
            continue;
        }
        memcpy(t->index + first, list, (size_t)found * sizeof *list);
        memcpy(t->value + first, values, (size_t)found * sizeof *list);
    }
    free(list);
    return 0;
}

/* From counts of candidates above the key (FGD_START) and equal to it (FGD_TIES): where each chunk's first kept one goes, and how
 * many of its ties are kept. */
void fgd_topk_place(fgd_topk *t)
{
    int64_t chunks = fgd_sparse_chunks(t->x.n), ties = t->k, start = 0;
    for (int64_t c = 0; c < chunks; c++)
        ties -= t->chunk[c * FGD_FIELDS + FGD_START];
    for (int64_t c = 0; c < chunks; c++) {
        int64_t *row = t->chunk + c * FGD_FIELDS, above = row[FGD_START];
        row[FGD_TIES] = FGD_MIN(row[FGD_TIES], ties);
        row[FGD_START] = start;
        ties -= row[FGD_TIES];
        start += above + row[FGD_TIES];
    }
}

/* The k-th largest magnitude of the candidates, looked for below `upper` where fewer reach that; -1 where there is no memory. */
static int kth_candidate(fgd_topk *t)
{
    uint32_t *some = fgd_scratch((t->used + FGD_SAMPLE_LINE) * (int64_t)sizeof *some);
    if (!some)
        return -1;
    int64_t count = FGD_CALL(between)(t->value, t->used, t->key, t->upper, some), rank = t->k - (t->used - count);
    if (rank < 1) {
        t->upper = FGD_BEYOND;
        count = FGD_CALL(between)(t->value, t->used, t->key, t->upper, some);
        rank = t->k;
    }
    t->key = FGD_CALL(kth_largest)(some, count, rank, t->key, t->upper);
    free(some);
    return 0;
}

/* The k-th largest magnitude of all, and where each chunk's candidates go. */
int fgd_topk_select(fgd_topk *t)
{
    int64_t chunks = fgd_sparse_chunks(t->x.n);
    if (t->used < t->k || t->used > t->capacity) {
        for (int64_t c = 0; c < chunks && clears(t); c++) {
            const int64_t *row = t->chunk + c * FGD_FIELDS;
            restore(t, t->index + row[FGD_FIRST], t->value + row[FGD_FIRST], row[FGD_COUNT]);
        }
        return t->used < t->k ? 1 : 2;
    }
    if (kth_candidate(t) < 0)
        return -1;
    for (int64_t c = 0; c < chunks; c++) {
        int64_t *row = t->chunk + c * FGD_FIELDS;
        FGD_CALL(tally)(t->value + row[FGD_FIRST], row[FGD_COUNT], t->key, &row[FGD_START], &row[FGD_TIES]);
    }
    fgd_topk_place(t);
    return 0;
}

/* Magnitudes counted in bins; the memory of FEEDBACK becomes p. */
int fgd_topk_histogram(fgd_topk *t, fgd_job *job)
{
    uint32_t *bin = fgd_scratch(4 * (FGD_SPARSE_BINS + 1) * (int64_t)sizeof *bin);
    if (!bin)
        return -1;
    memset(bin, 0, 4 * (FGD_SPARSE_BINS + 1) * sizeof *bin);
    FOR_CHUNKS(t->x.n, job)
        FGD_CALL(histogram)(&t->x, t->memory, t->mode, lo, count, t->key, t->span, t->shift, bin);
    for (int64_t b = 0; b < t->span >> t->shift; b++) {
        int64_t sum = 0;
        for (int64_t l = 0; l < 4; l++)
            sum += bin[4 * b + l];
        if (sum)
            __atomic_fetch_add(&t->count[b], sum, __ATOMIC_RELAXED);
    }
    free(bin);
    return 0;
}

/* `key` becomes the low end of the bin that holds the k-th largest magnitude, `upper` the next one's. */
int64_t fgd_topk_narrow(fgd_topk *t)
{
    int64_t at = FGD_SPARSE_BINS - 1;
    while (t->above + t->count[at] < t->k)
        t->above += t->count[at--];
    t->middle = t->key += (uint32_t)at << t->shift;
    t->upper = t->key + (1u << t->shift);
    return t->above + t->count[at];
}

/* A chunk's candidates: those that were kept, or else made anew into `list`. */
static int64_t candidates(const fgd_topk *t, int64_t c, uint32_t *list, int64_t half, const uint32_t **index,
                          const uint32_t **value)
{
    const int64_t *row = t->chunk + c * FGD_FIELDS;
    if (t->index) {
        *index = t->index + row[FGD_FIRST];
        *value = t->value + row[FGD_FIRST];
        return row[FGD_COUNT];
    }
    int64_t lo = c * FGD_SPARSE_CHUNK;
    *index = list;
    *value = list + half;
    return FGD_CALL(scan)(&t->x, t->memory, t->mode, FGD_BEYOND, lo, FGD_MIN(t->x.n - lo, FGD_SPARSE_CHUNK), t->key,
                          (uint8_t *)list, (uint8_t *)(list + half));
}

/* Without candidates, the key known: how many of each chunk are above it and equal to it. */
int fgd_topk_tally(fgd_topk *t, fgd_job *job)
{
    int64_t half;
    uint32_t *list = room_for_chunk(t, &half);
    if (!list)
        return -1;
    FOR_CHUNKS(t->x.n, job) {
        const uint32_t *index, *value;
        int64_t *row = t->chunk + c * FGD_FIELDS, found = candidates(t, c, list, half, &index, &value);
        FGD_CALL(tally)(value, found, t->key, &row[FGD_START], &row[FGD_TIES]);
    }
    free(list);
    return 0;
}

/* The kept ones into the body. With 32 bits the memory changes here: p - c is 0. */
int fgd_topk_emit(fgd_topk *t, fgd_job *job)
{
    int64_t half = 0;
    uint32_t *list = t->index ? NULL : room_for_chunk(t, &half);
    if (!t->index && !list)
        return -1;
    FOR_CHUNKS(t->x.n, job) {
        const uint32_t *index, *value;
        int64_t *row = t->chunk + c * FGD_FIELDS, found = candidates(t, c, list, half, &index, &value);
        uint8_t *indices = t->body + 4 * row[FGD_START];
        uint8_t *values = t->bits == 32 ? t->body + 4 * (t->k + row[FGD_START]) : (uint8_t *)(t->kept + row[FGD_START]);
        float *cleared = clears(t) ? t->memory : NULL;
        int64_t kept = FGD_CALL(filter)(index, value, found, t->key, row[FGD_TIES], cleared, t->middle, indices, values);
        if (t->bits == 32 && !cleared)
            FGD_CALL(remember)(t->memory, t->after, indices, values, kept);
    }
    free(list);
    return 0;
}

int64_t fgd_topk_tickets(int64_t k)
{
    return (k + FGD_VALUES_BUCKET * FGD_QUANTISE_TICKET - 1) / (FGD_VALUES_BUCKET * FGD_QUANTISE_TICKET);
}

/* Steps and codes of the kept values, and the memory. */
void fgd_topk_quantise(fgd_topk *t, fgd_job *job)
{
    int64_t buckets = (t->k + FGD_VALUES_BUCKET - 1) / FGD_VALUES_BUCKET;
    uint8_t *steps = t->body + 4 * t->k, *codes = steps + 4 * buckets;
    for (int64_t first; (first = fgd_take(&job->next) * FGD_QUANTISE_TICKET) < buckets;)
        for (int64_t b = first; b < FGD_MIN(first + FGD_QUANTISE_TICKET, buckets); b++) {
            int64_t at = b * FGD_VALUES_BUCKET;
            FGD_CALL(quantise)(t->kept + at, FGD_MIN(FGD_VALUES_BUCKET, t->k - at), t->body + 4 * at, t->memory, t->after,
                               steps + 4 * b, (int8_t *)codes + at);
        }
}

/* ---- Threshold: each chunk writes where its elements would lie if all were kept, then the gaps are closed */

void fgd_threshold_scan(const fgd_vector *x, float *memory, fgd_mode mode, uint32_t key, uint8_t *body, int64_t *kept,
                        fgd_job *job)
{
    FOR_CHUNKS(x->n, job) {
        uint8_t *index = body + 4 * lo, *value = body + 4 * (x->n + lo);
        uint32_t middle = mode == FGD_FEEDBACK ? key : FGD_BEYOND;
        kept[c] = FGD_CALL(scan)(x, memory, mode, middle, lo, count, key, index, value);
        if (mode == FGD_DIFFERENCE)
            FGD_CALL(remember)(memory, mode, index, value, kept[c]);
    }
}

int64_t fgd_threshold_pack(int64_t n, uint8_t *body, const int64_t *kept)
{
    int64_t chunks = fgd_sparse_chunks(n), k = 0;
    for (int64_t c = 0; c < chunks; k += kept[c++])
        memmove(body + 4 * k, body + 4 * c * FGD_SPARSE_CHUNK, (size_t)kept[c] * 4);
    int64_t at = k;
    for (int64_t c = 0; c < chunks; at += kept[c++])
        memmove(body + 4 * at, body + 4 * (n + c * FGD_SPARSE_CHUNK), (size_t)kept[c] * 4);
    return k;
}

/* ---- RandK */

static fgd_network network_of(int64_t n, uint64_t seed, uint32_t step)
{
    fgd_network w = {.n = (uint64_t)n};
    uint64_t b = (uint64_t)sqrt((double)n);
    b -= b * b >= (uint64_t)n && b > 0; /* the root is rounded: below, then up */
    while (b * b < (uint64_t)n)
        b++;
    w.b = (uint32_t)FGD_MAX(b, FGD_RANDK_LEAST);
    w.a = (uint32_t)FGD_MAX(((uint64_t)n + w.b - 1) / w.b, FGD_RANDK_LEAST);
    for (uint32_t t = 0; t < FGD_RANDK_ROUNDS; t++)
        w.key[t] = fgd_hash_start(seed, step, t);
    return w;
}

int64_t fgd_randk_tickets(int64_t k)
{
    return (k + FGD_RANDK_BATCH * FGD_RANDK_TICKET - 1) / (FGD_RANDK_BATCH * FGD_RANDK_TICKET);
}

/* Values in the order of the permutation, and the memory at their places. */
void fgd_randk_gather(const fgd_randk *r, const fgd_vector *x, float *memory, fgd_mode mode, fgd_job *job)
{
    fgd_network w = network_of(x->n, r->seed, r->step);
    double factor = r->scaled ? (double)x->n / (double)r->k : 1.0;
    int64_t index[FGD_RANDK_BATCH], first;
    while ((first = fgd_take(&job->next) * FGD_RANDK_BATCH * FGD_RANDK_TICKET) < r->k) {
        int64_t last = FGD_MIN(first + FGD_RANDK_BATCH * FGD_RANDK_TICKET, r->k);
        for (int64_t j = first; j < last; j += FGD_RANDK_BATCH) {
            int64_t count = FGD_MIN(last - j, FGD_RANDK_BATCH);
            FGD_CALL(permute)(&w, j, count, index);
            FGD_CALL(gather)(x, memory, mode, index, count, r->scaled, factor, r->values + 4 * j);
        }
    }
}

/* ---- decoding */

static uint32_t word_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float float_at(const uint8_t *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

static int ascending(const uint8_t *index, int64_t k, int64_t n)
{
    int64_t before = -1;
    int fine = 1;
    for (int64_t j = 0; j < k; j++) {
        int64_t i = word_at(index + 4 * j);
        fine &= i > before;
        before = i;
    }
    return fine && before < n;
}

static int all_finite(const uint8_t *value, int64_t k)
{
    uint32_t largest = 0;
    for (int64_t j = 0; j < k; j++)
        largest = FGD_MAX(largest, magnitude(word_at(value + 4 * j)));
    return largest < 0x7f800000u;
}

int fgd_check_topk(const fgd_payload *q)
{
    if (!ascending(q->body, q->a, q->n))
        return 2;
    const uint8_t *values = q->body + 4 * q->a;
    if (!q->option)
        return all_finite(values, q->a) ? 0 : 1;
    int64_t buckets = (q->a + FGD_VALUES_BUCKET - 1) / FGD_VALUES_BUCKET;
    const int8_t *code = (const int8_t *)values + 4 * buckets;
    for (int64_t b = 0; b < buckets; b++) {
        float step = float_at(values + 4 * b);
        if (word_at(values + 4 * b) >= 0x7f800000u || step * 127.0f == INFINITY)
            return 1;
        int least = 0, any = 0;
        for (int64_t j = b * FGD_VALUES_BUCKET; j < FGD_MIN((b + 1) * FGD_VALUES_BUCKET, q->a); j++) {
            least = FGD_MIN(least, code[j]);
            any |= code[j];
        }
        if (least == -128 || (step == 0.0f && any))
            return 3;
    }
    return 0;
}

int fgd_check_threshold(const fgd_payload *q)
{
    return !ascending(q->body, q->a, q->n) ? 2 : !all_finite(q->body + 4 * q->a, q->a) ? 1 : 0;
}

int fgd_check_randk(const fgd_payload *q)
{
    return word_at(q->body + 12) ? 4 : !all_finite(q->body + 16, q->a) ? 1 : 0;
}

/* How many of the k indices are below i. */
static int64_t below(const uint8_t *index, int64_t k, int64_t i)
{
    int64_t from = 0;
    while (from < k) {
        int64_t middle = from + (k - from) / 2;
        if (word_at(index + 4 * middle) < i)
            from = middle + 1;
        else
            k = middle;
    }
    return from;
}

static void put(float *out, float c, float scale, int add)
{
    *out = add ? *out + scale * c : c;
}

static void add_floats(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    int64_t last = below(q->body, q->a, hi);
    const uint8_t *value = q->body + 4 * q->a;
    for (int64_t j = below(q->body, q->a, lo); j < last; j++)
        put(out + word_at(q->body + 4 * j), float_at(value + 4 * j), scale, add);
}

static void clear(int64_t lo, int64_t hi, int add, float *out)
{
    if (!add && hi > lo)
        memset(out + lo, 0, (size_t)(hi - lo) * sizeof *out);
}

void fgd_add_topk(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    clear(lo, hi, add, out);
    if (!q->option) {
        add_floats(q, lo, hi, scale, add, out);
        return;
    }
    int64_t buckets = (q->a + FGD_VALUES_BUCKET - 1) / FGD_VALUES_BUCKET, last = below(q->body, q->a, hi);
    const uint8_t *step = q->body + 4 * q->a;
    const int8_t *code = (const int8_t *)step + 4 * buckets;
    for (int64_t j = below(q->body, q->a, lo); j < last; j++)
        put(out + word_at(q->body + 4 * j), (float)code[j] * float_at(step + 4 * (j / FGD_VALUES_BUCKET)), scale, add);
}

void fgd_add_threshold(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    clear(lo, hi, add, out);
    add_floats(q, lo, hi, scale, add, out);
}

/* The indices are not in order: all are made, those of the range are used. */
void fgd_add_randk(const fgd_payload *q, int64_t lo, int64_t hi, float scale, int add, float *out)
{
    clear(lo, hi, add, out);
    uint64_t seed;
    memcpy(&seed, q->body, sizeof seed);
    fgd_network w = network_of(q->n, seed, word_at(q->body + 8));
    int64_t index[FGD_RANDK_BATCH];
    for (int64_t j = 0; j < q->a; j += FGD_RANDK_BATCH) {
        int64_t count = FGD_MIN(q->a - j, FGD_RANDK_BATCH);
        FGD_CALL(permute)(&w, j, count, index);
        for (int64_t i = 0; i < count; i++)
            if (index[i] >= lo && index[i] < hi)
                put(out + index[i], float_at(q->body + 16 + 4 * (j + i)), scale, add);
    }
}
