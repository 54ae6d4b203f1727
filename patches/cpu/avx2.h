/* bfloat16 as floats of AVX2. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 8

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
