/* What torch computes between attentions, in bfloat16: the same operations in the same order, so the same bits, on a
   processor with AVX2, where torch takes each output of a linear layer for a dot product of its own.

   An output is 64 sums by fused multiply-add, of the inputs 0, 64, 128, ..., then of 1, 65, ..., added up as a tree:
   sums 32 apart, then 16, 8, 4, 2 and 1. Inputs beyond the last 64 go to 8 sums, likewise added up. The order depends
   neither on how many rows there are nor on who computes them. */

#include "avx2.h"

#define PAIR 16 /* inputs that are loaded at once: as floats, a vector of even and one of odd elements */
#define PAIRS 4
#define TURN 64    /* inputs until a sum gets its next */
#define GROUPS 8   /* vectors of sums */
#define TILE 12    /* sums that fill the registers, one for each row and output */
#define PANEL 12   /* outputs that all rows go over while their weights are in the cache */
#define BLOCK 4    /* rows of a tile */
#define BAND 48    /* rows that go over all weights while they are in the cache */
#define PARTS 4    /* vectors that torch adds up apart */
#define AHEAD 512 /* weights between what is read and what is fetched */

static inline __m128 halves(floats x) { return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)); }

/* Four outputs from the vectors of their even and odd sums. */
static inline __m128 tree_sums(const floats *evens, const floats *odds) {
    floats x[4];
    for (int i = 0; i < 4; i++)
        x[i] = _mm256_add_ps(_mm256_permute2f128_ps(evens[i], odds[i], 0x20),
                             _mm256_permute2f128_ps(evens[i], odds[i], 0x31));
    for (int i = 0; i < 4; i += 2)
        x[i] = _mm256_add_ps(_mm256_shuffle_ps(x[i], x[i + 1], 0x44), _mm256_shuffle_ps(x[i], x[i + 1], 0xee));
    return halves(_mm256_add_ps(_mm256_shuffle_ps(x[0], x[2], 0x88), _mm256_shuffle_ps(x[0], x[2], 0xdd)));
}

/* The inputs beyond the last whole turn. */
static float rest_sum(const bf16 *in, const bf16 *weight, int64_t count) {
    floats sum = _mm256_setzero_ps();
    for (int64_t k = 0; k < count; k += LANES) sum = _mm256_fmadd_ps(load_bf16(in + k), load_bf16(weight + k), sum);
    __m128 x = halves(sum);
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

/* Rows as floats, a vector of sums after the other: [GROUPS, turns, rows, LANES], those of even elements first. */
static void spread(const bf16 *in, int64_t size, int64_t rows, float *out) {
    const int64_t turns = size / TURN, half = turns * rows * LANES * PAIRS;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < turns; t++)
            for (int64_t p = 0; p < PAIRS; p++) {
                words pairs = load(in + r * size + t * TURN + p * PAIR);
                float *to = out + ((p * turns + t) * rows + r) * LANES;
                _mm256_storeu_ps(to, even(pairs));
                _mm256_storeu_ps(to + half, odd(pairs));
            }
}

#define UNROLLED _Pragma("GCC unroll 12")

/* As `odd`, with the mask from memory: in a register it would push out a sum. */
static inline floats odd_tight(words pairs) {
    static const uint32_t mask[LANES] = {0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000,
                                         0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000};
    words high;
    __asm__("vpand %2, %1, %0" : "=x"(high) : "x"(pairs), "m"(mask));
    return _mm256_castsi256_ps(high);
}

/* One vector of the sums of `rows` x `outs` outputs, to which those in `sum` are added if there are any. `next` are
   weights to fetch along. */
static inline __attribute__((always_inline)) void sums(const float *in, const bf16 *weight, int64_t size,
                                                       const bf16 *next, floats *sum, int any, const int parity,
                                                       const int rows, const int outs) {
    floats mine[TILE];
    UNROLLED
    for (int i = 0; i < rows * outs; i++) mine[i] = _mm256_setzero_ps();
    for (int64_t t = 0; t < size / TURN; t++) {
        floats some[TILE];
        UNROLLED
        for (int o = 0; o < outs; o++) {
            words pairs = load(weight + o * size + t * TURN);
            some[o] = parity ? odd_tight(pairs) : even(pairs);
        }
        _mm_prefetch((const char *)(next + t * outs * LANES), _MM_HINT_T0);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            floats value = _mm256_loadu_ps(in + (t * rows + r) * LANES);
            __asm__("" : "+x"(value)); /* loaded once, not for each output */
            UNROLLED
            for (int o = 0; o < outs; o++) mine[r * outs + o] = _mm256_fmadd_ps(value, some[o], mine[r * outs + o]);
        }
    }
    UNROLLED
    for (int i = 0; i < rows * outs; i++) sum[i] = any ? _mm256_add_ps(sum[i], mine[i]) : mine[i];
}

/* Each tile has a function of its own, in which its sums stay in registers. */
typedef void summing(const float *in, const bf16 *weight, int64_t size, const bf16 *next, floats *sum, int any,
                     int parity);
#define SUMS(R, O)                                                                                                  \
    static __attribute__((noinline)) void sums_##R##_##O(const float *in, const bf16 *weight, int64_t size,         \
                                                         const bf16 *next, floats *sum, int any, int parity) {      \
        if (parity)                                                                                                 \
            sums(in, weight, size, next, sum, any, 1, R, O);                                                        \
        else                                                                                                        \
            sums(in, weight, size, next, sum, any, 0, R, O);                                                        \
    }
SUMS(2, 4) SUMS(3, 3) SUMS(4, 3) SUMS(2, 1) SUMS(3, 1) SUMS(4, 1)
#undef SUMS

static inline void finish(const floats (*total)[TILE], const bf16 *rest, const bf16 *weight, int64_t size,
                          const bf16 *bias, bf16 *out, int64_t stride, int rows, int outs) {
    const int64_t whole = size / TURN * TURN;
    float value[TILE];
    bf16 narrow[TILE + LANES];
    for (int i = 0; i < rows * outs; i += 4) _mm_storeu_ps(value + i, tree_sums(total[0] + i, total[1] + i));
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++) {
            float *sum = value + r * outs + o;
            *sum += whole < size ? rest_sum(rest + r * size + whole, weight + o * size + whole, size - whole) : 0;
            if (bias) *sum += widen(bias[o]);
        }
    for (int i = 0; i < rows * outs; i += 4)
        store_bf16(narrow + i, _mm256_castps128_ps256(_mm_loadu_ps(value + i)));
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++) out[r * stride + o] = narrow[r * outs + o];
}

static void tile(summing *sums, const float *in, const bf16 *rest, const bf16 *weight, int64_t size, const bf16 *bias,
                 bf16 *out, int64_t stride, int rows, int outs) {
    const int64_t turns = size / TURN, step = turns * rows * LANES, fetch = turns * outs * LANES;
    const bf16 *next = weight + outs * size;
    floats total[2][TILE], other[TILE];
    for (int i = rows * outs; i < TILE; i++) total[0][i] = total[1][i] = _mm256_setzero_ps();
    for (int parity = 0; parity < 2; parity++) {
        const float *x = in + parity * PAIRS * step;
        /* 32 inputs apart, then 16 */
        sums(x, weight, size, next, total[parity], 0, parity);
        sums(x + 2 * step, weight + 2 * PAIR, size, next + fetch, total[parity], 1, parity);
        sums(x + step, weight + PAIR, size, next + 2 * fetch, other, 0, parity);
        sums(x + 3 * step, weight + 3 * PAIR, size, next + 3 * fetch, other, 1, parity);
        for (int i = 0; i < rows * outs; i++) total[parity][i] = _mm256_add_ps(total[parity][i], other[i]);
        next += PAIRS * fetch;
    }
    finish(total, rest, weight, size, bias, out, stride, rows, outs);
}

/* Rows of a block with PANEL outputs, or with fewer, of which some may be left to go one by one. */
static void panel(const float *in, const bf16 *rest, const bf16 *weight, int64_t size, const bf16 *bias, bf16 *out,
                  int64_t stride, int rows, int64_t count) {
    summing *const one[] = {sums_2_1, sums_3_1, sums_4_1}, *const many[] = {sums_2_4, sums_3_3, sums_4_3};
    for (int64_t o = 0, outs; o < count; o += outs) {
        outs = rows == 2 ? 4 : 3;
        if (o + outs > count) outs = 1;
        tile(outs == 1 ? one[rows - 2] : many[rows - 2], in, rest, weight + o * size, size, bias ? bias + o : 0, out + o,
             stride, rows, (int)outs);
    }
}

/* Each output alone: its weights are read once, in their order. */
static void one_row(const bf16 *in, int64_t size, const bf16 *weight, const bf16 *bias, int64_t outs, float *scratch,
                    bf16 *out) {
    const int64_t turns = size / TURN;
    spread(in, size, 1, scratch);
    for (int64_t first = 0; first < outs; first += 4) {
        const int count = outs - first < 4 ? (int)(outs - first) : 4;
        floats total[2][TILE];
        for (int i = 0; i < TILE; i++) total[0][i] = total[1][i] = _mm256_setzero_ps();
        for (int i = 0; i < count; i++) {
            const bf16 *w = weight + (first + i) * size;
            floats sum[GROUPS];
            for (int g = 0; g < GROUPS; g++) sum[g] = _mm256_setzero_ps();
            for (int64_t t = 0; t < turns; t++)
                for (int p = 0; p < PAIRS; p++) {
                    words pairs = load(w + t * TURN + p * PAIR);
                    if (p % 2 == 0) _mm_prefetch((const char *)(w + t * TURN + p * PAIR + AHEAD), _MM_HINT_T0);
                    const float *x = scratch + (p * turns + t) * LANES;
                    sum[p] = _mm256_fmadd_ps(_mm256_loadu_ps(x), even(pairs), sum[p]);
                    x += PAIRS * turns * LANES;
                    sum[p + PAIRS] = _mm256_fmadd_ps(_mm256_loadu_ps(x), odd(pairs), sum[p + PAIRS]);
                }
            for (int j = 0; j < 2; j++) {
                floats *s = sum + j * PAIRS;
                total[j][i] = _mm256_add_ps(_mm256_add_ps(s[0], s[2]), _mm256_add_ps(s[1], s[3]));
            }
        }
        finish(total, in, weight + first * size, size, bias ? bias + first : 0, out + first, 0, 1, count);
    }
}

/* Bytes of scratch that `paste_linear` needs. */
int64_t paste_scratch(int64_t rows, int64_t size) { return (rows < BAND ? rows : BAND) * size * (int64_t)sizeof(float); }

/* in [rows, size], weight [outs, size], bias [outs] or NULL, out [rows, outs]; `size` is a multiple of 16. Rows are
   divided evenly, since a block of one would leave most registers empty. */
void paste_linear(const bf16 *in, int64_t rows, int64_t size, const bf16 *weight, const bf16 *bias, int64_t outs,
                  int64_t block, float *scratch, bf16 *out) {
    (void)block; /* the order does not depend on it */
    if (rows == 1) {
        one_row(in, size, weight, bias, outs, scratch, out);
        return;
    }
    const int64_t bands = (rows + BAND - 1) / BAND;
    for (int64_t b = 0; b < bands; b++) {
        const int64_t start = b * rows / bands, band = (b + 1) * rows / bands - start, blocks = (band + BLOCK - 1) / BLOCK;
#define FIRST(I) ((I) * band / blocks)
        for (int64_t i = 0; i < blocks; i++)
            spread(in + (start + FIRST(i)) * size, size, FIRST(i + 1) - FIRST(i), scratch + FIRST(i) * size);
        for (int64_t o = 0; o < outs; o += PANEL)
            for (int64_t i = 0; i < blocks; i++)
                panel(scratch + FIRST(i) * size, in + (start + FIRST(i)) * size, weight + o * size, size,
                      bias ? bias + o : 0, out + (start + FIRST(i)) * outs + o, outs, (int)(FIRST(i + 1) - FIRST(i)),
                      outs - o < PANEL ? outs - o : PANEL);
#undef FIRST
    }
}

static inline floats square(const float *x) {
    floats value = _mm256_loadu_ps(x);
    return _mm256_mul_ps(value, value);
}

/* The sum of squares as torch adds them: PARTS partial vectors, cascaded every `step` additions, then by lane. */
static float squares(const float *x, int64_t size) {
    int64_t count = size / (PARTS * LANES), power = 4, bits = 0, i = 0;
    while (((int64_t)1 << bits) < count) bits++;
    if (bits / 4 > power) power = bits / 4;
    int64_t step = (int64_t)1 << power;
    floats level[4][PARTS];
    for (int j = 0; j < 4; j++)
        for (int p = 0; p < PARTS; p++) level[j][p] = _mm256_setzero_ps();
    while (i + step <= count) {
        for (int64_t end = i + step; i < end; i++)
            for (int p = 0; p < PARTS; p++)
                level[0][p] = _mm256_add_ps(level[0][p], square(x + (PARTS * i + p) * LANES));
        for (int j = 1; j < 4; j++) {
            for (int p = 0; p < PARTS; p++) {
                level[j][p] = _mm256_add_ps(level[j][p], level[j - 1][p]);
                level[j - 1][p] = _mm256_setzero_ps();
            }
            if (i & ((step - 1) << (j * power))) break;
        }
    }
    for (; i < count; i++)
        for (int p = 0; p < PARTS; p++)
            level[0][p] = _mm256_add_ps(level[0][p], square(x + (PARTS * i + p) * LANES));
    for (int j = 1; j < 4; j++)
        for (int p = 0; p < PARTS; p++) level[0][p] = _mm256_add_ps(level[0][p], level[j][p]);
    floats total = level[0][0];
    for (int64_t k = count * PARTS * LANES; k < size; k += LANES) total = _mm256_add_ps(total, square(x + k));
    for (int p = 1; p < PARTS; p++) total = _mm256_add_ps(total, level[0][p]);
    float lane[LANES], sum = 0;
    _mm256_storeu_ps(lane, total);
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

/* out = the norm of in + residual, whose rounded sum goes to `kept`; residual and kept may be NULL. [rows, size] */
void paste_norm(const bf16 *in, const bf16 *residual, int64_t rows, int64_t size, const bf16 *weight, float epsilon,
                float *scratch, bf16 *kept, bf16 *out) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < size; i += LANES) {
            floats value = load_bf16(in + r * size + i);
            if (residual) {
                value = _mm256_add_ps(value, load_bf16(residual + r * size + i));
                store_bf16(kept + r * size + i, value);
            }
            _mm256_storeu_ps(scratch + i, value);
        }
        float mean = squares(scratch, size) / (float)size + epsilon;
        floats factor = _mm256_div_ps(_mm256_set1_ps(1), _mm256_sqrt_ps(_mm256_set1_ps(mean)));
        for (int64_t i = 0; i < size; i += LANES) {
            floats value = _mm256_mul_ps(_mm256_loadu_ps(scratch + i), factor);
            store_bf16(out + r * size + i, _mm256_mul_ps(value, load_bf16(weight + i)));
        }
    }
}

/* in [rows, 2 x size]: out [rows, size] = table[first half] x second half */
void paste_gate(const bf16 *in, int64_t rows, int64_t size, const bf16 *table, bf16 *out) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < size; i += LANES) {
            bf16 gate[LANES];
            for (int l = 0; l < LANES; l++) gate[l] = table[in[r * 2 * size + i + l]];
            store_bf16(out + r * size + i, _mm256_mul_ps(load_bf16(gate), load_bf16(in + (r * 2 + 1) * size + i)));
        }
}

/* Turns heads of `dim` by their row's position; in has `stride` elements between rows, out [rows, heads x dim]; a row
   of the table holds dim / 2 cosines, then as many sines. 0 when a position has no row in the table, else 1. */
int paste_rotate(const bf16 *in, int64_t rows, int64_t stride, int64_t heads, int64_t dim, const int64_t *positions,
                 const bf16 *table, int64_t length, bf16 *out) {
    int64_t half = dim / 2;
    for (int64_t r = 0; r < rows; r++)
        if (positions[r] < 0 || positions[r] >= length) return 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++) {
            const bf16 *from = in + r * stride + h * dim, *turn = table + positions[r] * dim;
            bf16 *to = out + (r * heads + h) * dim;
            for (int64_t i = 0; i < half; i += LANES) {
                floats cosine = load_bf16(turn + i), sine = load_bf16(turn + half + i);
                floats a = load_bf16(from + i), b = load_bf16(from + half + i);
                store_bf16(to + i, _mm256_sub_ps(rounded(_mm256_mul_ps(a, cosine)), rounded(_mm256_mul_ps(b, sine))));
                store_bf16(to + half + i,
                           _mm256_add_ps(rounded(_mm256_mul_ps(b, cosine)), rounded(_mm256_mul_ps(a, sine))));
            }
        }
    return 1;
}
