/* What torch computes between attentions, in bfloat16: the same operations in the same order, so the same bits, on a
   processor with AVX2, where torch takes each output of a linear layer for a dot product of its own.

   An output is 64 sums by fused multiply-add, of the inputs 0, 64, 128, ..., then of 1, 65, ..., added up as a tree:
   sums 32 apart, then 16, 8, 4, 2 and 1. Inputs beyond the last 64 go to 8 sums, likewise added up. The order depends
   neither on how many rows there are nor on who computes them. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define PAIR 16 /* inputs that are loaded at once: as floats, a vector of even and one of odd elements */
#define PAIRS 4
#define TURN 64    /* inputs until a sum gets its next */
#define GROUPS 8   /* vectors of sums */
#define TILE 12    /* sums that fill the registers, one for each row and output */
#define PANEL 12   /* outputs that all rows go over while their weights are in the cache */
#define BLOCK 4    /* rows of a tile */
#define BAND 48    /* rows that go over all weights while they are in the cache */
#define PARTS 4    /* vectors that torch adds up apart */
#define AHEAD 1024 /* weights between what is read and what is fetched */

typedef uint16_t bf16;
typedef __m256 floats;
typedef __m256i words;

static inline float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline words load(const bf16 *x) { return _mm256_loadu_si256((const words *)x); }
static inline floats even(words pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
static inline floats odd(words pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

static inline floats load_bf16(const bf16 *x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16));
}

/* to the nearest bfloat16, ties to even, as the upper halves of words */
static inline words round_up(floats x) {
    words bits = _mm256_castps_si256(x);
    words last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    words up = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    words nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc00000), nan);
}

static inline floats rounded(floats x) {
    return _mm256_castsi256_ps(_mm256_and_si256(round_up(x), _mm256_set1_epi32((int)0xffff0000)));
}

static inline void store_bf16(bf16 *out, floats x) {
    words high = _mm256_srli_epi32(round_up(x), 16);
    __m128i low = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    _mm_storeu_si128((__m128i *)out, low);
}

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

/* One vector of the sums of `rows` x `outs` outputs. `next` are weights to fetch along. */
static inline __attribute__((always_inline)) void sums(const float *in, const bf16 *weight, int64_t size,
                                                       const bf16 *next, floats *sum, const int parity, const int rows,
                                                       const int outs) {
    for (int i = 0; i < rows * outs; i++) sum[i] = _mm256_setzero_ps();
    for (int64_t t = 0; t < size / TURN; t++) {
        floats some[TILE];
        for (int o = 0; o < outs; o++) {
            words pairs = load(weight + o * size + t * TURN);
            some[o] = parity ? odd(pairs) : even(pairs);
        }
        _mm_prefetch((const char *)(next + t * outs * LANES), _MM_HINT_T0);
        for (int r = 0; r < rows; r++) {
            floats value = _mm256_loadu_ps(in + (t * rows + r) * LANES);
            for (int o = 0; o < outs; o++) sum[r * outs + o] = _mm256_fmadd_ps(value, some[o], sum[r * outs + o]);
        }
    }
}

static inline void finish(const floats (*total)[TILE], const bf16 *rest, const bf16 *weight, int64_t size,
                          const bf16 *bias, bf16 *out, int64_t stride, const int rows, const int outs) {
    const int64_t whole = size / TURN * TURN;
    float value[TILE];
    bf16 narrow[TILE + LANES];
    for (int i = 0; i < TILE; i += 4) _mm_storeu_ps(value + i, tree_sums(total[0] + i, total[1] + i));
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++) {
            float *sum = value + r * outs + o;
            *sum += rest_sum(rest + r * size + whole, weight + o * size + whole, size - whole);
            if (bias) *sum += widen(bias[o]);
        }
    for (int i = 0; i < TILE; i += 4) store_bf16(narrow + i, _mm256_castps128_ps256(_mm_loadu_ps(value + i)));
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++) out[r * stride + o] = narrow[r * outs + o];
}

static inline __attribute__((always_inline)) void tile(const float *in, const bf16 *rest, const bf16 *weight,
                                                       int64_t size, const bf16 *bias, bf16 *out, int64_t stride,
                                                       const int rows, const int outs) {
    const int64_t turns = size / TURN, step = turns * rows * LANES, fetch = turns * outs * LANES;
    const bf16 *next = weight + outs * size;
    floats total[2][TILE];
    for (int i = rows * outs; i < TILE; i++) total[0][i] = total[1][i] = _mm256_setzero_ps();
    for (int parity = 0; parity < 2; parity++)
        for (int p = 0; p < PAIRS / 2; p++) {
            const float *x = in + (parity * PAIRS + p) * step;
            const bf16 *w = weight + p * PAIR;
            floats near[TILE], far[TILE];
            if (parity) {
                sums(x, w, size, next, near, 1, rows, outs);
                sums(x + PAIRS / 2 * step, w + TURN / 2, size, next + fetch, far, 1, rows, outs);
            } else {
                sums(x, w, size, next, near, 0, rows, outs);
                sums(x + PAIRS / 2 * step, w + TURN / 2, size, next + fetch, far, 0, rows, outs);
            }
            next += 2 * fetch;
            for (int i = 0; i < rows * outs; i++) {
                near[i] = _mm256_add_ps(near[i], far[i]);
                total[parity][i] = p ? _mm256_add_ps(total[parity][i], near[i]) : near[i];
            }
        }
    finish(total, rest, weight, size, bias, out, stride, rows, outs);
}

/* Rows of a block with PANEL outputs, or with fewer one by one. */
static void panel(const float *in, const bf16 *rest, const bf16 *weight, int64_t size, const bf16 *bias, bf16 *out,
                  int64_t stride, int64_t rows, int64_t count) {
#define ROWS(R, O)                                                                                               \
    case R:                                                                                                      \
        for (; o + O <= count; o += O)                                                                           \
            tile(in, rest, weight + o * size, size, bias ? bias + o : 0, out + o, stride, R, O);                 \
        for (; o < count; o++) tile(in, rest, weight + o * size, size, bias ? bias + o : 0, out + o, stride, R, 1); \
        return;
    int64_t o = 0;
    switch (rows) { ROWS(2, 6) ROWS(3, 4) ROWS(4, 3) }
#undef ROWS
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
                      bias ? bias + o : 0, out + (start + FIRST(i)) * outs + o, outs, FIRST(i + 1) - FIRST(i),
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
