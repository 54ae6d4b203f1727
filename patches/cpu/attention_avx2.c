/* Attention of single queries over cached keys, with the bits of torch's CPU flash kernel for one query in bfloat16 on a
   processor with AVX2. Each row is computed as if it were alone.

   A score is 4 sums, of the elements 0, 4, 8, ..., then of 1, 5, ..., added up as a tree. Keys go in blocks of 512; the
   values of 4 keys are added up as a tree before they go to the output, those of a block's last keys one by one from
   the end. */

#include "avx2.h"

#include <math.h>

#define KEYS 512 /* of a block */
#define WIDTH 256 /* the largest head */
#define HEADS 4  /* that share a key and are computed together */

typedef const int32_t *slots;

/* 2^x from the bits of a float, corrected by a polynomial (Malossi et al., 2015), as torch takes it. */
static inline floats fast_exp(floats x) {
    floats power = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x3fb8aa3b)));
    floats part = _mm256_sub_ps(power, _mm256_floor_ps(power));
    floats off = _mm256_fmadd_ps(part, _mm256_set1_ps(-0.079204240219773236f), _mm256_set1_ps(-0.22433836478672356f));
    off = _mm256_fmadd_ps(part, off, _mm256_set1_ps(0.30354260500649682f));
    off = _mm256_fmadd_ps(part, off, _mm256_set1_ps(0.00010703434948458272f));
    floats bits = _mm256_fmadd_ps(_mm256_set1_ps(0x1p23f), _mm256_sub_ps(power, off), _mm256_set1_ps(0x1p23f * 127));
    floats small = _mm256_cmp_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xc2aeac50)), _CMP_LT_OS);
    return _mm256_andnot_ps(small, _mm256_castsi256_ps(_mm256_cvttps_epi32(bits)));
}

static inline float sum_lanes(floats x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline float max_lanes(floats x) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

static inline float rounded_one(float x) { return _mm256_cvtss_f32(rounded(_mm256_set1_ps(x))); }

/* Scores of `count` keys for `heads` queries; in `query` each 4 elements come twice: [dim / 4, heads, 2, 4]. */
static inline __attribute__((always_inline)) void scores(const float *query, int64_t dim, const bf16 *keys, slots from,
                                                         int64_t stride, int64_t count, float (*out)[KEYS],
                                                         const int heads) {
    for (int64_t j = 0; j < count; j += 4) {
        const bf16 *key[4];
        for (int i = 0; i < 4; i++) key[i] = keys + from[j + i < count ? j + i : j] * stride;
        floats sum[2][HEADS];
        for (int h = 0; h < heads; h++) sum[0][h] = sum[1][h] = _mm256_setzero_ps();
        for (int64_t d = 0; d < dim; d += LANES)
            for (int i = 0; i < 2; i++) {
                floats a = load_bf16(key[2 * i] + d), b = load_bf16(key[2 * i + 1] + d);
                floats first = _mm256_permute2f128_ps(a, b, 0x20), last = _mm256_permute2f128_ps(a, b, 0x31);
                const float *x = query + 2 * d * heads;
                for (int h = 0; h < heads; h++) {
                    sum[i][h] = _mm256_fmadd_ps(first, _mm256_loadu_ps(x + h * LANES), sum[i][h]);
                    sum[i][h] = _mm256_fmadd_ps(last, _mm256_loadu_ps(x + (heads + h) * LANES), sum[i][h]);
                }
            }
        for (int i = 0; i < 2; i++)
            for (int h = 0; h < heads; h++) {
                floats x = _mm256_add_ps(sum[i][h], _mm256_permute_ps(sum[i][h], 0x4e));
                x = _mm256_add_ps(x, _mm256_permute_ps(x, 0xb1));
                out[h][j + 2 * i] = _mm256_cvtss_f32(x);
                out[h][j + 2 * i + 1] = _mm_cvtss_f32(_mm256_extractf128_ps(x, 1));
            }
    }
}

/* Scales scores and takes what they weigh instead, to the next bfloat16; gives their sum, unrounded, and the largest
   score of this and all earlier blocks. */
static float weigh(float *score, int64_t count, float scale, float *most) {
    const int64_t whole = count / LANES * LANES;
    floats top = _mm256_set1_ps(-INFINITY), sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t j = 0; j < whole; j += LANES) {
        floats x = _mm256_mul_ps(_mm256_loadu_ps(score + j), _mm256_set1_ps(scale));
        top = _mm256_max_ps(top, x);
        _mm256_storeu_ps(score + j, x);
    }
    float largest = max_lanes(top);
    for (int64_t j = whole; j < count; j++) {
        score[j] *= scale;
        if (score[j] > largest) largest = score[j];
    }
    if (largest > *most) *most = largest;
    for (int64_t j = 0; j < whole; j += LANES) {
        floats x = fast_exp(_mm256_sub_ps(_mm256_loadu_ps(score + j), _mm256_set1_ps(*most)));
        sum[j / LANES % 2] = _mm256_add_ps(sum[j / LANES % 2], x);
        _mm256_storeu_ps(score + j, rounded(x));
    }
    float total = sum_lanes(_mm256_add_ps(sum[0], sum[1]));
    for (int64_t j = whole; j < count; j++) {
        float x = expf(score[j] - *most);
        total += x;
        score[j] = rounded_one(x);
    }
    return total;
}

/* Adds the weighed values of a block to `out` [heads, dim]. */
static inline __attribute__((always_inline)) void mix(float (*weight)[KEYS], int64_t dim, const bf16 *values,
                                                      slots from, int64_t stride, int64_t count, float (*out)[WIDTH],
                                                      const int heads) {
    const int64_t whole = count / 4 * 4;
    for (int64_t d = 0; d < dim; d += 2 * LANES) {
        floats sum[2][HEADS];
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < 2; i++) sum[i][h] = _mm256_loadu_ps(out[h] + d + i * LANES);
        for (int64_t j = 0; j < whole; j += 4)
            for (int i = 0; i < 2; i++) {
                floats value[4];
                for (int n = 0; n < 4; n++) value[n] = load_bf16(values + from[j + n] * stride + d + i * LANES);
                for (int h = 0; h < heads; h++) {
                    const float *w = weight[h] + j;
                    floats evens = _mm256_mul_ps(value[0], _mm256_broadcast_ss(w));
                    floats odds = _mm256_mul_ps(value[1], _mm256_broadcast_ss(w + 1));
                    evens = _mm256_fmadd_ps(value[2], _mm256_broadcast_ss(w + 2), evens);
                    odds = _mm256_fmadd_ps(value[3], _mm256_broadcast_ss(w + 3), odds);
                    sum[i][h] = _mm256_add_ps(sum[i][h], _mm256_add_ps(evens, odds));
                }
            }
        for (int64_t j = count - 1; j >= whole; j--)
            for (int i = 0; i < 2; i++) {
                floats value = load_bf16(values + from[j] * stride + d + i * LANES);
                for (int h = 0; h < heads; h++)
                    sum[i][h] = _mm256_fmadd_ps(value, _mm256_broadcast_ss(weight[h] + j), sum[i][h]);
            }
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < 2; i++) _mm256_storeu_ps(out[h] + d + i * LANES, sum[i][h]);
    }
}

/* `heads` queries that share their keys; a slot has its key at `stride` elements from the one before. */
static inline __attribute__((always_inline)) void attend(const bf16 *query, int64_t dim, const bf16 *keys,
                                                         const bf16 *values, slots from, int64_t stride, int64_t count,
                                                         float scale, bf16 *out, const int heads) {
    float twice[2 * HEADS * WIDTH], weight[HEADS][KEYS], mixed[HEADS][WIDTH], most[HEADS], sum[HEADS];
    for (int h = 0; h < heads; h++) {
        most[h] = -INFINITY, sum[h] = 0;
        for (int64_t d = 0; d < dim; d++) {
            float *x = twice + (d / 4 * heads + h) * LANES + d % 4;
            x[0] = x[4] = widen(query[h * dim + d]);
            mixed[h][d] = 0;
        }
    }
    for (int64_t first = 0; first < count; first += KEYS) {
        const int64_t block = count - first < KEYS ? count - first : KEYS;
        scores(twice, dim, keys, from + first, stride, block, weight, heads);
        for (int h = 0; h < heads; h++) {
            float before = most[h], total = weigh(weight[h], block, scale, &most[h]), kept = expf(before - most[h]);
            sum[h] = fmaf(kept, sum[h], total);
            if (first)
                for (int64_t d = 0; d < dim; d++) mixed[h][d] *= kept;
        }
        mix(weight, dim, values, from + first, stride, block, mixed, heads);
    }
    for (int h = 0; h < heads; h++) {
        floats part = _mm256_set1_ps(1 / sum[h]);
        for (int64_t d = 0; d < dim; d += LANES)
            store_bf16(out + h * dim + d, _mm256_mul_ps(_mm256_loadu_ps(mixed[h] + d), part));
    }
}

/* query and out [rows, heads, dim]; keys and values [slots, kv_heads, dim]; row r sees the keys in the slots
   `from[r][0]` to `from[r][counts[r] - 1]`, at least one. `dim` is a multiple of 16 up to 256. */
void paste_attend(const bf16 *query, int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim, const bf16 *keys,
                  const bf16 *values, const slots *from, const int64_t *counts, float scale, bf16 *out) {
    const int64_t group = heads / kv_heads, stride = kv_heads * dim;
#define SOME(N)                                                                                                  \
    case N:                                                                                                      \
        attend(query + at, dim, keys + k * dim, values + k * dim, from[r], stride, counts[r], scale, out + at, N); \
        break;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < kv_heads; k++)
            for (int64_t h = 0; h < group; h += HEADS) {
                int64_t at = ((r * kv_heads + k) * group + h) * dim;
                switch (group - h < HEADS ? group - h : HEADS) { SOME(1) SOME(2) SOME(3) SOME(4) }
            }
#undef SOME
}
