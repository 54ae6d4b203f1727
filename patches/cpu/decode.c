/* Decoder layers of a Llama over a few rows: one read of the weights serves all rows.

   Values are rounded to bfloat16 wherever the torch modules round them; sums are float. The sums of a row do not depend
   on how many rows there are, so a draft that is verified among others gets the logits it would have got alone. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define KEY_BLOCK 512 /* a multiple of LANES */
#define CHUNK 32

typedef uint16_t bf16;
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

typedef struct {
    const bf16 *input_norm, *qkv, *output, *post_norm, *gate_up, *down;
    bf16 *keys, *values; /* pools: [slots, kv_heads, dim] */
} Layer;

typedef struct {
    int64_t hidden, inner, heads, kv_heads, dim, layers;
    float epsilon, scale;
    const bf16 *embedding, *final_norm, *rope; /* rope: [positions, dim], cosines then sines */
    const Layer *layer;
} Model;

typedef struct {
    int64_t first, count;  /* rows of this request */
    int64_t keys;          /* keys its last row may see, its own rows included */
    const int32_t *slots;  /* [keys] */
    const uint8_t *tree;   /* [count, count], or NULL for a chain */
} Request;

static inline float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline bf16 narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float rounded(float x) { return widen(narrow(x)); }

static inline floats load(const float *x) {
    floats value;
    memcpy(&value, x, sizeof value);
    return value;
}

static inline floats load_bf16(const bf16 *x) {
    halves value;
    memcpy(&value, x, sizeof value);
    return (floats)(__builtin_convertvector(value, words) << 16);
}

static inline float total(floats x) {
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    eight high;
    four upper, lower;
    memcpy(&high, (char *)&x + 32, 32);
    eight low;
    memcpy(&low, &x, 32);
    low += high;
    memcpy(&lower, &low, 16);
    memcpy(&upper, (char *)&low + 16, 16);
    lower += upper;
    return (lower[0] + lower[2]) + (lower[1] + lower[3]);
}

/* exp for x <= 0, within 2 units in the last place; 0 below -87 */
static inline floats exponential(floats x) {
    floats shifter = {0}, n, r, power;
    shifter += 12582912.0f;
    n = (x * 1.44269504f + shifter) - shifter;
    r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    floats p = {0};
    p += 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    power = (floats)((__builtin_convertvector(n, ints) + 127) << 23);
    words keep = (words)(x > -87.0f);
    return (floats)((words)(p * power) & keep);
}

/* One output of a fixed number of rows: out[r * stride] = rounded(weight . in[r]) */
#define DOT(ROWS)                                                                                            \
    static inline void dot##ROWS(const bf16 *w, const float *in, int64_t size, float *out, int64_t stride) { \
        floats even[ROWS] = {0}, odd[ROWS] = {0};                                                            \
        for (int64_t k = 0; k < size; k += 2 * LANES) {                                                      \
            floats a = load_bf16(w + k), b = load_bf16(w + k + LANES);                                       \
            for (int r = 0; r < ROWS; r++) {                                                                 \
                even[r] += a * load(in + r * size + k);                                                      \
                odd[r] += b * load(in + r * size + k + LANES);                                               \
            }                                                                                                \
        }                                                                                                    \
        for (int r = 0; r < ROWS; r++) out[r * stride] = rounded(total(even[r] + odd[r]));                   \
    }
DOT(1)
DOT(2)
DOT(4)
DOT(8)

/* in [rows, size], weight [outs, size], out [rows, outs]; called by all threads of a team. A chunk of the weights stays
   in the second cache while group after group of rows, each small enough for the first, goes over it. */
static void multiply(const float *in, int64_t rows, int64_t size, const bf16 *weight, int64_t outs, float *out) {
    int64_t eight = 8 * size * (int64_t)sizeof(float) <= 24 * 1024 ? 8 : 4;
#pragma omp for schedule(static)
    for (int64_t start = 0; start < outs; start += CHUNK) {
        int64_t end = start + CHUNK < outs ? start + CHUNK : outs, r = 0;
        while (r < rows) {
            int64_t left = rows - r, group = left >= 8 ? eight : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            const float *from = in + r * size;
            float *to = out + r * outs;
            for (int64_t o = start; o < end; o++) {
                const bf16 *w = weight + o * size;
                if (group == 8) dot8(w, from, size, to + o, outs);
                else if (group == 4) dot4(w, from, size, to + o, outs);
                else if (group == 2) dot2(w, from, size, to + o, outs);
                else dot1(w, from, size, to + o, outs);
            }
            r += group;
        }
    }
}

/* residual += in, out = norm of the unrounded sum */
static void add_norm(const float *in, float *residual, const bf16 *weight, float epsilon, int64_t size, float *out) {
    float square = 0;
    for (int64_t i = 0; i < size; i++) {
        float sum = in ? in[i] + residual[i] : residual[i];
        out[i] = sum;
        residual[i] = rounded(sum);
        square += sum * sum;
    }
    float factor = 1.0f / sqrtf(square / (float)size + epsilon);
    for (int64_t i = 0; i < size; i++) out[i] = rounded(out[i] * factor * widen(weight[i]));
}

static void rotate(float *head, const bf16 *rope, int64_t dim) {
    int64_t half = dim / 2;
    for (int64_t i = 0; i < half; i++) {
        float cosine = widen(rope[i]), sine = widen(rope[half + i]), a = head[i], b = head[half + i];
        head[i] = rounded(rounded(a * cosine) - rounded(b * sine));
        head[half + i] = rounded(rounded(b * cosine) + rounded(a * sine));
    }
}

static int sees(const Request *request, int64_t row, int64_t key) {
    int64_t own = key - (request->keys - request->count);
    if (own < 0) return 1;
    return request->tree ? request->tree[row * request->count + own] : own <= row;
}

/* One query head over a request's keys, in blocks with a running maximum. */
static inline __attribute__((always_inline)) void attend_width(const Model *model, const Layer *layer,
                                                               const Request *request, int64_t row, int64_t head,
                                                               const float *query, float *out, const int64_t vectors) {
    int64_t dim = model->dim, width = model->kv_heads * dim, offset = head / (model->heads / model->kv_heads) * dim;
    float score[KEY_BLOCK], top = -INFINITY, sum = 0;
    floats mixed[16] = {0};
    for (int64_t start = 0; start < request->keys; start += KEY_BLOCK) {
        int64_t end = start + KEY_BLOCK < request->keys ? start + KEY_BLOCK : request->keys;
        float block_top = top;
        for (int64_t k = start; k < end; k++) {
            const bf16 *key = layer->keys + (int64_t)request->slots[k] * width + offset;
            floats partial = load(query) * load_bf16(key);
            for (int64_t i = 1; i < vectors; i++) partial += load(query + i * LANES) * load_bf16(key + i * LANES);
            float value = sees(request, row, k) ? total(partial) * model->scale : -INFINITY;
            score[k - start] = value;
            if (value > block_top) block_top = value;
        }
        if (block_top == -INFINITY) continue;
        float shrink = expf(top - block_top);
        for (int64_t i = 0; i < vectors; i++) mixed[i] *= shrink;
        sum *= shrink;
        for (int64_t k = end; k < start + KEY_BLOCK; k++) score[k - start] = -INFINITY;
        for (int64_t k = 0; k < end - start; k += LANES) {
            floats weights = exponential(load(score + k) - block_top);
            memcpy(score + k, &weights, sizeof weights);
        }
        for (int64_t k = start; k < end; k++) {
            float weight = score[k - start];
            if (weight == 0) continue;
            sum += weight;
            const bf16 *value = layer->values + (int64_t)request->slots[k] * width + offset;
            weight = rounded(weight);
            for (int64_t i = 0; i < vectors; i++) mixed[i] += weight * load_bf16(value + i * LANES);
        }
        top = block_top;
    }
    for (int64_t i = 0; i < dim; i++) out[i] = rounded(mixed[i / LANES][i % LANES] / sum);
}

static void attend(const Model *model, const Layer *layer, const Request *request, int64_t row, int64_t head,
                   const float *query, float *out) {
    int64_t vectors = model->dim / LANES;
    /* The usual head sizes are unrolled, which keeps the output in registers. */
    if (vectors == 4) attend_width(model, layer, request, row, head, query, out, 4);
    else if (vectors == 8) attend_width(model, layer, request, row, head, query, out, 8);
    else attend_width(model, layer, request, row, head, query, out, vectors);
}

static void store(bf16 *pool, const float *from, int64_t width) {
    for (int64_t i = 0; i < width; i++) pool[i] = narrow(from[i]);
}

/* Bytes of scratch that `paste_decode` needs for this many rows. */
int64_t paste_scratch(const Model *m, int64_t rows) {
    int64_t qkv = (m->heads + 2 * m->kv_heads) * m->dim;
    return (int64_t)sizeof(float) * rows * (3 * m->hidden + qkv + m->heads * m->dim + 3 * m->inner);
}

/* tokens, positions and slots [rows]; out [rows, hidden] is the output of the final norm. Keys and values are written. */
void paste_decode(const Model *m, int64_t rows, const int64_t *tokens, const int64_t *positions, const int64_t *slots,
                  int64_t requests, const Request *request, float *scratch, bf16 *out, int threads) {
    int64_t hidden = m->hidden, inner = m->inner, dim = m->dim;
    int64_t queries = m->heads * dim, pairs = m->kv_heads * dim, qkv_size = queries + 2 * pairs;
    float *residual = scratch, *normed = residual + rows * hidden, *added = normed + rows * hidden;
    float *qkv = added + rows * hidden, *mixed = qkv + rows * qkv_size;
    float *gate_up = mixed + rows * queries, *act = gate_up + rows * 2 * inner;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < hidden; i++) residual[r * hidden + i] = widen(m->embedding[tokens[r] * hidden + i]);
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            add_norm(l ? added + r * hidden : NULL, residual + r * hidden, layer->input_norm, m->epsilon, hidden,
                     normed + r * hidden);
        multiply(normed, rows, hidden, layer->qkv, qkv_size, qkv);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            float *row = qkv + r * qkv_size;
            for (int64_t h = 0; h < m->heads + m->kv_heads; h++) rotate(row + h * dim, m->rope + positions[r] * dim, dim);
            store(layer->keys + slots[r] * pairs, row + queries, pairs);
            store(layer->values + slots[r] * pairs, row + queries + pairs, pairs);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t q = 0; q < requests; q++)
            for (int64_t h = 0; h < m->heads; h++)
                for (int64_t i = 0; i < request[q].count; i++) {
                    int64_t r = request[q].first + i;
                    attend(m, layer, request + q, i, h, qkv + r * qkv_size + h * dim, mixed + r * queries + h * dim);
                }
        multiply(mixed, rows, queries, layer->output, hidden, added);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            add_norm(added + r * hidden, residual + r * hidden, layer->post_norm, m->epsilon, hidden,
                     normed + r * hidden);
        multiply(normed, rows, hidden, layer->gate_up, 2 * inner, gate_up);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < inner; i++) {
                float gate = gate_up[r * 2 * inner + i];
                act[r * inner + i] = rounded(rounded(gate / (1 + expf(-gate))) * gate_up[r * 2 * inner + inner + i]);
            }
        multiply(act, rows, inner, layer->down, hidden, added);
    }
    for (int64_t r = 0; r < rows; r++) {
        add_norm(added + r * hidden, residual + r * hidden, m->final_norm, m->epsilon, hidden, normed + r * hidden);
        store(out + r * hidden, normed + r * hidden, hidden);
    }
}

/* in [rows, size], weight [outs, size], out [rows, outs]; scratch holds rows x (size + outs) floats */
void paste_linear(const bf16 *in, int64_t rows, int64_t size, const bf16 *weight, int64_t outs, float *scratch, bf16 *out,
                  int threads) {
    float *wide = scratch + rows * size;
    for (int64_t i = 0; i < rows * size; i++) scratch[i] = widen(in[i]);
#pragma omp parallel num_threads(threads) if (threads > 1)
    multiply(scratch, rows, size, weight, outs, wide);
    for (int64_t i = 0; i < rows * outs; i++) out[i] = narrow(wide[i]);
}
