/* Inner products of centred float rows, for distances of many rows. Part of a body file (isa.h), after pairwise.h.
 *
 * Formula: c_i = x_i - x_r; g_ij = sum_k c_ik c_jk; a_i = sum_k c_ik^2. Then D_ij = a_i + a_j - 2 g_ij.
 * Cost:    n^2 / 2 multiply-adds a coordinate, half the arithmetic of direct differences; one read of x.
 * Order:   as in pairwise.h; the norms a_i in lanes of 8 multiply-adds each, which are then added in double.
 * Error:   with u = 2^-24: 36 u sqrt(a_i a_j) in g_ij from 32 multiply-adds and 4 foldings, 8 u in a_i, 4 u (a_i + a_j) in D_ij
 *          from rounding c. Altogether |error of D_ij| <= 48 u (a_i + a_j): small next to D_ij unless i and j are much nearer
 *          to each other than to row r, which fgd_robust_gram_sum looks at pair by pair.
 */

FGD_NOINLINE void FN(tile_products)(const float *a, const float *b, int64_t steps, double *sums, const char *next0,
                                    const char *next1)
{
    FN(tile_body_f)(a, b, steps, sums, 0, 1, next0, next1);
}

/* Subtract the centre from a packed row; its squared norm. */
FGD_INLINE double FN(centre_row)(float *row, const float *centre, int64_t steps)
{
    double norm[16] = {0};
    for (int64_t k = 0; k < steps; k += 8) {
        float lanes[16] __attribute__((aligned(64)));
        for (int h = 0; h < 16; h += WIDTH) {
            VEC sum = {0};
            for (int64_t s = k; s < FGD_MIN(k + 8, steps); s++) {
                VEC c = *(VEC *)(row + 64 * s + h) - *(const VEC *)(centre + 64 * s + h);
                *(VEC *)(row + 64 * s + h) = c;
                sum = SQUARE(c, sum);
            }
            *(VEC *)(lanes + h) = sum;
        }
        for (int l = 0; l < 16; l++)
            norm[l] += lanes[l];
    }
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            norm[l] += norm[l + half];
    return norm[0];
}

/* Add the columns [begin, end) to `partial`: 16 products a tile as in pairwise.h, then the n norms. */
static void FN(gram_chunk)(const fgd_rows *x, int64_t centre, int64_t begin, int64_t end, int64_t block, float *packed,
                           double *partial)
{
    int64_t n = x->n, panels = (n + 3) / 4, tiles = panels * (panels + 1) / 2;
    for (int64_t lo = begin; lo < end; lo += block) {
        int64_t width = FGD_MIN(block, end - lo), steps = (width + 15) / 16, size = steps * 64;
        float *origin = packed + panels * size; /* one more panel, of which one row is used */
        FN(pack_f)(x, lo, width, packed);
        FN(pack_row_f)(x, centre, lo, width, origin);
        for (int64_t i = 0; i < n; i++)
            partial[16 * tiles + i] += FN(centre_row)(packed + i / 4 * size + i % 4 * 16, origin, steps);
        FN(coming_f) coming = FN(coming_block_f)(x, lo + width, end, tiles);
        double tile[16] __attribute__((aligned(64)));
        for (int64_t group = 0; group < panels; group += GROUP)
            for (int64_t i = 0; i < FGD_MIN(group + GROUP, panels); i++)
                for (int64_t j = FGD_MAX(i, group); j < FGD_MIN(group + GROUP, panels); j++) {
                    double *sum = partial + 16 * fgd_tile(panels, i, j);
                    const float *a = packed + i * size;
                    const char *next0, *next1;
                    FN(next_rows_f)(&coming, a, &next0, &next1);
                    FN(tile_products)(a, packed + j * size, steps, tile, next0, next1);
                    *(v8d_anywhere *)sum += *(v8d *)tile;
                    *(v8d_anywhere *)(sum + 8) += *(v8d *)(tile + 8);
                }
    }
}
