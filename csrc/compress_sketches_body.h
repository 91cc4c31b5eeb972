/* CountSketch for one instruction set (isa.h). docs/wire.md fixes every bit. Plain loops over short arrays vectorise here. */
#include "rows.h"
#include "compress.h"

#if FGD_X86_CLONES && FGD_LEVEL == 2
#define VEC v16f
#define LOWER(a, b) (v16f) _mm512_min_ps((__m512)(a), (__m512)(b))
#define HIGHER(a, b) (v16f) _mm512_max_ps((__m512)(a), (__m512)(b))
#elif FGD_X86_CLONES && FGD_LEVEL == 1
#define VEC v8f
#define LOWER(a, b) (v8f) _mm256_min_ps((__m256)(a), (__m256)(b))
#define HIGHER(a, b) (v8f) _mm256_max_ps((__m256)(a), (__m256)(b))
#elif FGD_X86_CLONES
#define VEC v4f
#define LOWER(a, b) (v4f) _mm_min_ps((__m128)(a), (__m128)(b))
#define HIGHER(a, b) (v4f) _mm_max_ps((__m128)(a), (__m128)(b))
#else
#define VEC v4f
#define LOWER(a, b) (v4f)(((v4si)(a) & ((a) < (b))) | ((v4si)(b) & ~((a) < (b))))
#define HIGHER(a, b) (v4f)(((v4si)(b) & ((a) < (b))) | ((v4si)(a) & ~((a) < (b))))
#endif

/* Formula: sums[r][cell_r(i)] += sign_r(i) round(p_i / unit), rows first .. last - 1, coordinates lo .. hi - 1.
 * Cost:    reads x and the memory; a hash and a read and write of a cell for each row and coordinate.
 * Order:   sums of integers: any. Unsigned, so that numbers that are not finite overflow harmlessly.
 */
FGD_NOINLINE void FN(sketch_sums)(const fgd_vector *x, const float *memory, fgd_mode mode, const fgd_sketch *s, int64_t first,
                                  int64_t last, double per_unit, int64_t lo, int64_t hi, uint64_t *sums)
{
    float p[FGD_BLOCK] __attribute__((aligned(64)));
    double shifted[FGD_BLOCK] __attribute__((aligned(64)));
    uint64_t whole[FGD_BLOCK] __attribute__((aligned(64))), signed_[FGD_BLOCK] __attribute__((aligned(64)));
    uint32_t cell[FGD_BLOCK] __attribute__((aligned(64)));
    const double shift = 0x1.8p52; /* adding it leaves no digit below 1, and the integer in the low bits */
    uint64_t shift_bits, columns = (uint64_t)s->columns;
    memcpy(&shift_bits, &shift, sizeof shift_bits);
    for (; lo < hi; lo += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, hi - lo);
        FN(begin_block)(x, memory, mode, lo, count, p);
        for (int64_t i = 0; i < count; i++)
            shifted[i] = (double)p[i] * per_unit + shift;
        memcpy(whole, shifted, (size_t)count * sizeof *whole);
        for (int64_t r = first; r < last; r++) {
            fgd_hash_key key = fgd_sketch_key(s, r, lo);
            uint64_t *row = sums + (r - first) * s->columns;
            for (int64_t i = 0; i < count; i++) {
                uint32_t hash = fgd_hash32((uint32_t)lo + (uint32_t)i, key);
                uint64_t minus = -(uint64_t)(hash & 1);
                cell[i] = (uint32_t)(hash * columns >> 32);
                signed_[i] = ((whole[i] - shift_bits) ^ minus) - minus;
            }
            for (int64_t i = 0; i < count; i++)
                row[cell[i]] += signed_[i];
        }
    }
}

/* Sort `rows` columns of FGD_SKETCH_TILE numbers each, place by place: Batcher's merge exchange (Knuth, 5.2.2 M). */
FGD_INLINE void FN(sort_rows)(float (*v)[FGD_SKETCH_TILE], int64_t rows)
{
    int64_t top = 1;
    while (2 * top < rows)
        top *= 2;
    for (int64_t p = rows > 1 ? top : 0; p; p /= 2)
        for (int64_t q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
            for (int64_t i = 0; i + d < rows; i++)
                if ((i & p) == r)
                    for (int l = 0; l < FGD_SKETCH_TILE; l += sizeof(VEC) / sizeof(float)) {
                        VEC a, b, low, high;
                        memcpy(&a, &v[i][l], sizeof a);
                        memcpy(&b, &v[i + d][l], sizeof b);
                        low = LOWER(a, b);
                        high = HIGHER(a, b);
                        memcpy(&v[i][l], &low, sizeof low);
                        memcpy(&v[i + d][l], &high, sizeof high);
                    }
            if (q == p)
                break;
        }
}

/* Formula: c_i = the median over rows of sign_r(i) table[r][cell_r(i)] + 0, for even rows half of each of the middle two.
 * Cost:    a hash and a read of a cell for each row and coordinate; rows log^2(rows) comparisons a coordinate.
 * lo a multiple of 64, count at most FGD_BLOCK; `c` has room for whole tiles.
 */
FGD_INLINE void FN(sketch_block)(const fgd_sketch *s, const fgd_cell *table, int64_t lo, int64_t count, float *c)
{
    float v[FGD_SKETCH_ROWS][FGD_SKETCH_TILE] __attribute__((aligned(64)));
    fgd_hash_key key[FGD_SKETCH_ROWS];
    uint64_t columns = (uint64_t)s->columns;
    for (int64_t r = 0; r < s->rows; r++)
        key[r] = fgd_sketch_key(s, r, lo);
    for (int64_t at = 0; at < count; at += FGD_SKETCH_TILE) {
        for (int64_t r = 0; r < s->rows; r++) {
            const fgd_cell *row = table + r * s->columns;
            uint32_t turn[FGD_SKETCH_TILE], cell[FGD_SKETCH_TILE], bits[FGD_SKETCH_TILE];
            for (int l = 0; l < FGD_SKETCH_TILE; l++) {
                uint32_t hash = fgd_hash32((uint32_t)(lo + at) + (uint32_t)l, key[r]);
                turn[l] = hash << 31;
                cell[l] = (uint32_t)(hash * columns >> 32);
            }
            for (int l = 0; l < FGD_SKETCH_TILE; l++)
                v[r][l] = row[cell[l]];
            memcpy(bits, v[r], sizeof bits);
            for (int l = 0; l < FGD_SKETCH_TILE; l++)
                bits[l] ^= turn[l];
            memcpy(v[r], bits, sizeof bits);
            for (int l = 0; l < FGD_SKETCH_TILE; l++)
                v[r][l] += 0.0f; /* one zero only: a median must not depend on how ties are sorted */
        }
        FN(sort_rows)(v, s->rows);
        const float *low = v[(s->rows - 1) / 2], *high = v[s->rows / 2];
        for (int l = 0; l < FGD_SKETCH_TILE; l++)
            c[at + l] = s->rows % 2 ? low[l] : 0.5f * low[l] + 0.5f * high[l];
    }
}

FGD_NOINLINE void FN(sketch_memory)(const fgd_vector *x, float *memory, fgd_mode mode, const fgd_sketch *s, const fgd_cell *table,
                                    int64_t lo, int64_t hi)
{
    float p[FGD_BLOCK] __attribute__((aligned(64))), c[FGD_BLOCK] __attribute__((aligned(64)));
    for (; lo < hi; lo += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, hi - lo);
        FN(begin_block)(x, memory, mode, lo, count, p);
        FN(sketch_block)(s, table, lo, count, c);
        FN(end_block)(memory, mode, lo, count, p, c);
    }
}

FGD_NOINLINE void FN(sketch_decode)(const fgd_sketch *s, const fgd_cell *table, int64_t lo, int64_t hi, float scale, int add,
                                    float *out)
{
    float c[FGD_BLOCK] __attribute__((aligned(64)));
    for (; lo < hi; lo += FGD_BLOCK) {
        int64_t count = FGD_MIN(FGD_BLOCK, hi - lo);
        FN(sketch_block)(s, table, lo, count, c);
        for (int64_t i = 0; i < count; i++)
            out[lo + i] = add ? out[lo + i] + scale * c[i] : c[i];
    }
}

/* Whether all cells are finite and none is -0, which no sum is. */
FGD_NOINLINE int FN(sketch_finite)(const uint8_t *table, int64_t cells)
{
    uint32_t most = 0, minus_zero = 0;
    for (int64_t k = 0; k < cells; k++) {
        uint32_t bits;
        memcpy(&bits, table + 4 * k, sizeof bits);
        minus_zero |= bits == 0x80000000u;
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most < 0x7f800000u && !minus_zero;
}

#undef VEC
#undef LOWER
#undef HIGHER
