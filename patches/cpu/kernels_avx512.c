/* What torch computes between attentions, in bfloat16: the same operations in the same order, so the same bits, on a
   processor with AVX-512 but no bfloat16 instructions, where torch and oneDNN emulate them.

   An output of a linear layer is a sum of products by fused multiply-add.
   One row (torch's gemv): 64 sums, of the inputs 0, 64, 128, ..., then of 1, 65, ..., added up as a tree.
   Several rows (oneDNN's gemm): one sum for each block of inputs, in pairs of which the odd one comes first; then the
   blocks are added up. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define PANEL 32 /* outputs that a tile computes side by side */
#define TILE 12  /* rows of a tile: with two vectors each they fill the registers */
#define BAND 120 /* rows that go over a panel while it is in the cache; a multiple of TILE */
#define AHEAD 2048 /* weights between what is read and what is fetched */
#define STEP 32  /* inputs of a vector; sizes are multiples, and of twice as many for one row */

typedef uint16_t bf16;
typedef __m512 floats;
typedef __m512i words;

static inline float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline words load(const bf16 *x) { return _mm512_loadu_si512(x); }
static inline floats even(words pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
static inline floats odd(words pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

/* to the nearest bfloat16, ties to even */
static inline __m256i narrow(floats x) {
    words bits = _mm512_castps_si512(x);
    words last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    words up = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}

static inline floats load_bf16(const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16));
}

/* Lanes 0 to 15 of `evens` and `odds` are the elements 0, 2, 4, ... and 1, 3, 5, ...: adds halves to halves. */
static inline float tree_sum(floats evens, floats odds) {
    floats x = _mm512_add_ps(_mm512_shuffle_f32x4(evens, odds, 0x44), _mm512_shuffle_f32x4(evens, odds, 0xee));
    x = _mm512_add_ps(x, _mm512_shuffle_f32x4(x, x, 0xb1));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0x4e));
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0xb1));
    return _mm512_cvtss_f32(x) + _mm256_cvtss_f32(_mm512_extractf32x8_ps(x, 1));
}

static inline bf16 narrow_one(float x) {
    return (bf16)_mm_extract_epi16(_mm256_castsi256_si128(narrow(_mm512_set1_ps(x))), 0);
}

static bf16 dot(const float *x, const bf16 *weight, int64_t size, const bf16 *bias) {
    floats sum[4];
    for (int j = 0; j < 4; j++) sum[j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < size; k += 2 * STEP)
        for (int j = 0; j < 4; j += 2) {
            words pairs = load(weight + k + j * LANES);
            _mm_prefetch((const char *)(weight + k + j * LANES + AHEAD), _MM_HINT_T0);
            sum[j] = _mm512_fmadd_ps(_mm512_loadu_ps(x + k + j * LANES), even(pairs), sum[j]);
            sum[j + 1] = _mm512_fmadd_ps(_mm512_loadu_ps(x + k + (j + 1) * LANES), odd(pairs), sum[j + 1]);
        }
    float value = tree_sum(_mm512_add_ps(sum[0], sum[2]), _mm512_add_ps(sum[1], sum[3]));
    return narrow_one(bias ? value + widen(*bias) : value);
}

static void one_row(const bf16 *in, int64_t size, const bf16 *weight, const bf16 *bias, int64_t outs, float *scratch,
                    bf16 *out) {
    for (int64_t k = 0; k < size; k += STEP) {
        words pairs = load(in + k);
        _mm512_storeu_ps(scratch + k, even(pairs));
        _mm512_storeu_ps(scratch + k + LANES, odd(pairs));
    }
    for (int64_t o = 0; o < outs; o++) out[o] = dot(scratch, weight + o * size, size, bias ? bias + o : 0);
}

/* From columns of 16 pairs in 16 rows to rows: swaps blocks of 8, 4, 2 and 1 across the diagonal. */
static inline void transpose(words *row) {
#define SWAP(DISTANCE)                                                                                     \
    {                                                                                                      \
        words lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);              \
        words far = _mm512_set1_epi32(DISTANCE), other = _mm512_set1_epi32(LANES);                         \
        __mmask16 high = _mm512_test_epi32_mask(lane, far);                                                \
        words low_from = _mm512_mask_add_epi32(lane, high, _mm512_sub_epi32(lane, far), other);            \
        words high_from = _mm512_mask_add_epi32(_mm512_add_epi32(lane, far), high, lane, other);           \
        for (int i = 0; i < LANES; i++) {                                                                  \
            if (i & DISTANCE) continue;                                                                    \
            words a = row[i], b = row[i + DISTANCE];                                                       \
            row[i] = _mm512_permutex2var_epi32(a, low_from, b);                                            \
            row[i + DISTANCE] = _mm512_permutex2var_epi32(a, high_from, b);                                \
        }                                                                                                  \
    }
    SWAP(8) SWAP(4) SWAP(2) SWAP(1)
#undef SWAP
}

/* Pairs of inputs of 32 outputs side by side: panel [size / 2, 32] pairs. Outputs beyond `count` are zero. */
static void pack(const bf16 *weight, int64_t size, int64_t count, bf16 *panel) {
    /* Rows are read across, the next panel is fetched along: memory is fast in its own order alone. */
    const bf16 *next = weight + PANEL * size;
    for (int64_t k = 0; k < size; k += STEP)
        for (int half = 0; half < 2; half++) {
            words row[LANES];
            for (int i = 0; i < LANES; i++) {
                int64_t output = half * LANES + i;
                row[i] = output < count ? load(weight + output * size + k) : _mm512_setzero_si512();
                _mm_prefetch((const char *)(next + k * PANEL + output * STEP), _MM_HINT_T1);
            }
            transpose(row);
            for (int i = 0; i < LANES; i++)
                _mm512_storeu_si512(panel + (k + 2 * i) * PANEL + half * STEP, row[i]);
        }
}

/* Rows as floats, pair by pair: [size / 2, rows, 2], the odd element first. */
static void spread(const bf16 *in, int64_t size, int64_t rows, float *out) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < size; k += 2) {
            out[k * rows + 2 * r] = widen(in[r * size + k + 1]);
            out[k * rows + 2 * r + 1] = widen(in[r * size + k]);
        }
}

static inline __attribute__((always_inline)) void tile(const float *in, const bf16 *panel, int64_t size, int64_t block,
                                                       const bf16 *bias, bf16 *out, int64_t stride, int64_t count,
                                                       const int rows) {
    floats total[TILE][2];
    for (int64_t start = 0; start < size; start += block) {
        int64_t end = start + block < size ? start + block : size;
        floats sum[TILE][2];
        for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
        for (int64_t k = start; k < end; k += 2) {
            const float *x = in + k * rows;
            words left = load(panel + k * PANEL), right = load(panel + k * PANEL + STEP);
            floats a = odd(left), b = odd(right);
            for (int r = 0; r < rows; r++) {
                floats value = _mm512_set1_ps(x[2 * r]);
                sum[r][0] = _mm512_fmadd_ps(value, a, sum[r][0]);
                sum[r][1] = _mm512_fmadd_ps(value, b, sum[r][1]);
            }
            a = even(left), b = even(right);
            for (int r = 0; r < rows; r++) {
                floats value = _mm512_set1_ps(x[2 * r + 1]);
                sum[r][0] = _mm512_fmadd_ps(value, a, sum[r][0]);
                sum[r][1] = _mm512_fmadd_ps(value, b, sum[r][1]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int h = 0; h < 2; h++) total[r][h] = start ? _mm512_add_ps(total[r][h], sum[r][h]) : sum[r][h];
    }
    for (int h = 0; h < 2; h++) {
        int64_t left = count - h * LANES;
        if (left <= 0) break;
        __mmask16 kept = left >= LANES ? 0xffff : (__mmask16)((1 << left) - 1);
        floats add = bias ? _mm512_castsi512_ps(_mm512_slli_epi32(
                                _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(kept, bias + h * LANES)), 16))
                          : _mm512_setzero_ps();
        for (int r = 0; r < rows; r++)
            _mm256_mask_storeu_epi16(out + r * stride + h * LANES, kept,
                                     narrow(bias ? _mm512_add_ps(total[r][h], add) : total[r][h]));
    }
}

#define ROWS(N) \
    case N: tile(in, panel, size, block, bias, out, stride, count, N); return;

static void tile_of(const float *in, const bf16 *panel, int64_t size, int64_t block, const bf16 *bias, bf16 *out,
                    int64_t stride, int64_t count, int64_t rows) {
    switch (rows) {
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
    }
}

/* Bytes of scratch that `paste_linear` needs. */
int64_t paste_scratch(int64_t rows, int64_t size) {
    return (rows < BAND ? rows : BAND) * size * (int64_t)sizeof(float) + size * PANEL * (int64_t)sizeof(bf16);
}

/* in [rows, size], weight [outs, size], bias [outs] or NULL, out [rows, outs]; sums of `block` inputs are added up.
   `size` is a multiple of 32, for one row of 64; `block` is even. */
void paste_linear(const bf16 *in, int64_t rows, int64_t size, const bf16 *weight, const bf16 *bias, int64_t outs,
                  int64_t block, float *scratch, bf16 *out) {
    if (rows == 1) {
        one_row(in, size, weight, bias, outs, scratch, out);
        return;
    }
    bf16 *panel = (bf16 *)(scratch + (rows < BAND ? rows : BAND) * size);
    for (int64_t first = 0; first < rows; first += BAND) {
        int64_t band = rows - first < BAND ? rows - first : BAND;
        for (int64_t r = 0; r < band; r += TILE)
            spread(in + (first + r) * size, size, band - r < TILE ? band - r : TILE, scratch + r * size);
        for (int64_t o = 0; o < outs; o += PANEL) {
            int64_t count = outs - o < PANEL ? outs - o : PANEL;
            pack(weight + o * size, size, count, panel);
            for (int64_t r = 0; r < band; r += TILE)
                tile_of(scratch + r * size, panel, size, block, bias ? bias + o : 0, out + (first + r) * outs + o, outs,
                        count, band - r < TILE ? band - r : TILE);
        }
    }
}

static inline floats square(const float *x) {
    floats value = _mm512_loadu_ps(x);
    return _mm512_mul_ps(value, value);
}

/* The sum of squares as torch adds them: four partial vectors of 8, cascaded every `step` additions, then by lane. */
static float squares(const float *x, int64_t size) {
    int64_t count = size / (2 * LANES), power = 4, bits = 0, i = 0;
    while (((int64_t)1 << bits) < count) bits++;
    if (bits / 4 > power) power = bits / 4;
    int64_t step = (int64_t)1 << power;
    floats level[4][2]; /* each holds two partial vectors */
    for (int j = 0; j < 4; j++) level[j][0] = level[j][1] = _mm512_setzero_ps();
    while (i + step <= count) {
        for (int64_t end = i + step; i < end; i++)
            for (int p = 0; p < 2; p++) level[0][p] = _mm512_add_ps(level[0][p], square(x + (2 * i + p) * LANES));
        for (int j = 1; j < 4; j++) {
            for (int p = 0; p < 2; p++) {
                level[j][p] = _mm512_add_ps(level[j][p], level[j - 1][p]);
                level[j - 1][p] = _mm512_setzero_ps();
            }
            if (i & ((step - 1) << (j * power))) break;
        }
    }
    for (; i < count; i++)
        for (int p = 0; p < 2; p++) level[0][p] = _mm512_add_ps(level[0][p], square(x + (2 * i + p) * LANES));
    for (int j = 1; j < 4; j++)
        for (int p = 0; p < 2; p++) level[0][p] = _mm512_add_ps(level[0][p], level[j][p]);
    __m256 total = _mm512_castps512_ps256(level[0][0]);
    for (int64_t k = count * 2 * LANES; k < size; k += LANES / 2) {
        __m256 value = _mm256_loadu_ps(x + k);
        total = _mm256_add_ps(total, _mm256_mul_ps(value, value));
    }
    total = _mm256_add_ps(total, _mm512_extractf32x8_ps(level[0][0], 1));
    total = _mm256_add_ps(total, _mm512_castps512_ps256(level[0][1]));
    total = _mm256_add_ps(total, _mm512_extractf32x8_ps(level[0][1], 1));
    float lane[8], sum = 0;
    _mm256_storeu_ps(lane, total);
    for (int l = 0; l < 8; l++) sum += lane[l];
    return sum;
}

/* out = the norm of in + residual, whose rounded sum goes to `kept`; residual and kept may be NULL. [rows, size] */
void paste_norm(const bf16 *in, const bf16 *residual, int64_t rows, int64_t size, const bf16 *weight, float epsilon,
                float *scratch, bf16 *kept, bf16 *out) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < size; i += LANES) {
            floats value = load_bf16(in + r * size + i);
            if (residual) {
                value = _mm512_add_ps(value, load_bf16(residual + r * size + i));
                _mm256_storeu_si256((__m256i *)(kept + r * size + i), narrow(value));
            }
            _mm512_storeu_ps(scratch + i, value);
        }
        float mean = squares(scratch, size) / (float)size + epsilon;
        floats factor = _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(_mm512_set1_ps(mean)));
        for (int64_t i = 0; i < size; i += LANES) {
            floats value = _mm512_mul_ps(_mm512_loadu_ps(scratch + i), factor);
            value = _mm512_mul_ps(value, load_bf16(weight + i));
            _mm256_storeu_si256((__m256i *)(out + r * size + i), narrow(value));
        }
    }
}

/* in [rows, 2 x size]: out [rows, size] = table[first half] x second half */
void paste_gate(const bf16 *in, int64_t rows, int64_t size, const bf16 *table, bf16 *out) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < size; i += LANES) {
            bf16 gate[LANES];
            for (int l = 0; l < LANES; l++) gate[l] = table[in[r * 2 * size + i + l]];
            floats value = _mm512_mul_ps(load_bf16(gate), load_bf16(in + (r * 2 + 1) * size + i));
            _mm256_storeu_si256((__m256i *)(out + r * size + i), narrow(value));
        }
}

static inline floats rounded(floats x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow(x)), 16));
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
                floats low = _mm512_sub_ps(rounded(_mm512_mul_ps(a, cosine)), rounded(_mm512_mul_ps(b, sine)));
                floats high = _mm512_add_ps(rounded(_mm512_mul_ps(b, cosine)), rounded(_mm512_mul_ps(a, sine)));
                _mm256_storeu_si256((__m256i *)(to + i), narrow(low));
                _mm256_storeu_si256((__m256i *)(to + half + i), narrow(high));
            }
        }
    return 1;
}
