// SPDX-License-Identifier: Apache-2.0
// softmax(q kᵀ scale + penalty) v for one head with both products in INT8. Included after attention.h and
// matmul_avx512.h.
//
// q, k and v have a scale per token and head. q is u8 around 128, which is taken back by starting the accumulators at
// -128 * (sum of the key). The scale of a value goes into its probability before that becomes u8; the largest
// probability of a row is 1 before the division by their sum, so 255 / (largest value scale of the head) is a safe
// factor and no second pass is needed. Twice as fast as bfloat16: 48 -> 26 ms in bert-large at 384 tokens (Zen 4).

// q (u8 around 128), k and v (s8) of rows of `heads` heads from reduced rows.
static void quantize_heads(const void *x, int64_t x_stride, int64_t rows, int64_t heads, int64_t head_size,
                           int64_t biased_heads, uint8_t *y, int64_t y_stride, float *scales, int64_t scale_stride) {
  const Reduced *row = static_cast<const Reduced *>(x);
  for (int64_t r = 0; r < rows; ++r, row += x_stride, y += y_stride, scales += scale_stride) {
    for (int64_t h = 0; h < heads; ++h) {
      const Reduced *head = row + h * head_size;
      F32 highest = {}, spoilt = {};
      for (int64_t i = 0; i < head_size; i += 16) {
        const F32 v = load_reduced(head + i);
        highest = max(highest, abs(v));
        spoilt = fma(v, splat(0.0f), spoilt);
      }
      const float largest = reduce_max(highest);
      // NaN where the head holds one, or an infinity.
      const float scale = (largest > 0 ? largest / 127.0f : 1.0f) + reduce_add(spoilt);
      const F32 inverse = splat(1.0f / scale);
      const I32 bias = splat_i32(h < biased_heads ? 128 : 0);
      for (int64_t i = 0; i < head_size; i += 16)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(y + h * head_size + i),
                         _mm512_cvtepi32_epi8(__m512i(round_i32(load_reduced(head + i) * inverse) + bias)));
      scales[h] = scale;
    }
  }
}

// Panel of values: [keys / 4][head_size][4].
static void fill_value_panel_int8(const AttentionInt8 &a, int32_t *panel) {
  const int64_t padded = round_up(a.keys, 64);
  for (int64_t key = 0; key < padded; key += 4, panel += a.head_size) {
    const uint8_t *rows[4];
    alignas(16) static const uint8_t kZero[16] = {};
    for (int64_t i = 0; i < 4; ++i) rows[i] = key + i < a.keys ? a.v + (key + i) * a.stride : nullptr;
    for (int64_t c = 0; c < a.head_size; c += 16) {
      __m128i r[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[i] ? rows[i] + c : kZero));
      const __m128i a0 = _mm_unpacklo_epi8(r[0], r[1]), a1 = _mm_unpackhi_epi8(r[0], r[1]);
      const __m128i b0 = _mm_unpacklo_epi8(r[2], r[3]), b1 = _mm_unpackhi_epi8(r[2], r[3]);
      __m128i *to = reinterpret_cast<__m128i *>(panel + c);
      _mm_store_si128(to, _mm_unpacklo_epi16(a0, b0));
      _mm_store_si128(to + 1, _mm_unpackhi_epi16(a0, b0));
      _mm_store_si128(to + 2, _mm_unpacklo_epi16(a1, b1));
      _mm_store_si128(to + 3, _mm_unpackhi_epi16(a1, b1));
    }
  }
}

// What a head needs besides the queries; in the scratch.
struct HeadPanels {
  int32_t *keys, *values;  // dwords of 4 bytes: [64-key block][depth][64], [keys / 4][head_size]
  int32_t *start;          // [padded]: -128 * sum of the key
  float *key_scale;        // [padded]: times the softmax's scale and log2(e)
  float *value_scale;      // [padded]: times 255 / largest
  float *scores;           // [kQueries, padded]
  uint8_t *probabilities;  // [kQueries, padded]
  float value_unit;        // largest value scale / 255
};

static size_t attention_int8_scratch(int64_t keys, int64_t head_size) {
  const int64_t padded = round_up(keys, 64);
  return static_cast<size_t>(2 * padded * head_size + 12 * padded + kQueries * padded * 5 + 1024);
}

template <int kQ, int kC>
SD_INLINE void multiply_u8(const int32_t *const *a, const int32_t *panel, int64_t panel_stride, int64_t count,
                           I32 (&c)[kQ][kC]) {
  const int32_t *rows[kQ];
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t) rows[t] = a[t];
  for (int64_t i = 0; i < count; ++i, panel += panel_stride) {
    __m512i b[kC];
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) b[j] = _mm512_load_si512(panel + j * 16);
#pragma GCC unroll 6
    for (int t = 0; t < kQ; ++t) {
      const __m512i left = _mm512_set1_epi32(rows[t][i]);
#pragma GCC unroll 4
      for (int j = 0; j < kC; ++j) dot_u8(c[t][j], left, b[j]);
    }
  }
}

// Columns [column, column + 16 kC) of the outputs of kQ queries.
template <int kQ, int kC>
SD_INLINE void weigh_values(const AttentionInt8 &a, const HeadPanels &p, int64_t padded, int64_t column,
                            const float *factor, Reduced *out) {
  const int32_t *rows[kQ];
  I32 c[kQ][kC];
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t) {
    rows[t] = reinterpret_cast<const int32_t *>(p.probabilities + t * padded);
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) c[t][j] = I32{};
  }
  multiply_u8<kQ, kC>(rows, p.values + column, a.head_size, padded / 4, c);
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t)
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) store_reduced(out + t * a.out_stride + column + j * 16, to_f32(c[t][j]) * factor[t]);
}

template <int kQ>
static void attend_int8(const AttentionInt8 &a, int64_t query, const HeadPanels &p) {
  const int64_t padded = round_up(a.keys, 64), depth = a.head_size / 4;
  const int32_t *rows[kQ];
  F32 highest[kQ], scale[kQ];
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t) {
    rows[t] = reinterpret_cast<const int32_t *>(a.q + (query + t) * a.stride);
    scale[t] = splat(a.q_scale[(query + t) * a.scale_stride]);
    highest[t] = splat(-3e38f);
  }
  for (int64_t key = 0; key < padded; key += 64) {
    I32 c[kQ][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const I32 start = *reinterpret_cast<const I32Unaligned *>(p.start + key + j * 16);
#pragma GCC unroll 6
      for (int t = 0; t < kQ; ++t) c[t][j] = start;
    }
    multiply_u8<kQ, 4>(rows, p.keys + key * depth, 64, depth, c);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const F32 penalty = load(a.penalty + key + j * 16), key_scale = load(p.key_scale + key + j * 16);
#pragma GCC unroll 6
      for (int t = 0; t < kQ; ++t) {
        const F32 v = fma(to_f32(c[t][j]), key_scale * scale[t], penalty);
        highest[t] = max(highest[t], v);
        store(p.scores + t * padded + key + j * 16, v);
      }
    }
  }
  float factor[kQ];
  for (int t = 0; t < kQ; ++t) {
    const F32 top = splat(reduce_max(highest[t]));
    const float *scores = p.scores + t * padded;
    uint8_t *probabilities = p.probabilities + t * padded;
    F32 sum = {};
    for (int64_t key = 0; key < padded; key += 16) {
      const F32 v = power_of_two(load(scores + key) - top);
      sum += v;
      _mm_store_si128(reinterpret_cast<__m128i *>(probabilities + key),
                      _mm512_cvtepi32_epi8(__m512i(round_i32(v * load(p.value_scale + key)))));
    }
    factor[t] = p.value_unit / reduce_add(sum);
  }
  Reduced *out = static_cast<Reduced *>(a.out) + (query - a.query_begin) * a.out_stride;
  int64_t column = 0;
  for (; column + 64 <= a.head_size; column += 64) weigh_values<kQ, 4>(a, p, padded, column, factor, out);
  for (; column + 32 <= a.head_size; column += 32) weigh_values<kQ, 2>(a, p, padded, column, factor, out);
  for (; column < a.head_size; column += 16) weigh_values<kQ, 1>(a, p, padded, column, factor, out);
}

static void attention_int8(const AttentionInt8 &a) {
  const int64_t padded = round_up(a.keys, 64), depth = a.head_size / 4;
  HeadPanels p;
  p.keys = static_cast<int32_t *>(a.scratch);
  p.values = p.keys + padded * depth;
  p.start = p.values + padded * depth;
  p.key_scale = reinterpret_cast<float *>(p.start + padded);
  p.value_scale = p.key_scale + padded;
  p.scores = p.value_scale + padded;
  p.probabilities = reinterpret_cast<uint8_t *>(p.scores + kQueries * padded);
  const __m512i ones = _mm512_set1_epi8(1);
  for (int64_t key = 0; key < padded; key += 16) {
    int32_t *panel = p.keys + key / 64 * 64 * depth + key % 64;
    const int64_t valid = a.keys - key;
    transpose16(reinterpret_cast<const int32_t *>(a.k + key * a.stride), a.stride / 4, valid < 0 ? 0 : valid, depth,
                panel, 64);
    I32 sum = {};
    for (int64_t i = 0; i < depth; ++i) dot_u8(sum, ones, _mm512_load_si512(panel + i * 64));
    *reinterpret_cast<I32Unaligned *>(p.start + key) = sum * -128;
  }
  float largest = 0;
  for (int64_t i = 0; i < a.keys; ++i) {
    p.key_scale[i] = a.k_scale[i * a.scale_stride] * a.scale * 1.44269504f;
    p.value_scale[i] = a.v_scale[i * a.scale_stride];
    if (a.penalty[i] == 0 && p.value_scale[i] > largest) largest = p.value_scale[i];
  }
  p.value_unit = largest / 255.0f;
  for (int64_t i = 0; i < padded; ++i) {
    const bool counts = i < a.keys && a.penalty[i] == 0;
    if (i >= a.keys) p.key_scale[i] = 0;
    p.value_scale[i] = counts ? p.value_scale[i] / p.value_unit : 0;
  }
  fill_value_panel_int8(a, p.values);
  int64_t query = a.query_begin;
  for (; query + 6 <= a.query_end; query += 6) attend_int8<6>(a, query, p);
  switch (a.query_end - query) {
    case 5: attend_int8<5>(a, query, p); break;
    case 4: attend_int8<4>(a, query, p); break;
    case 3: attend_int8<3>(a, query, p); break;
    case 2: attend_int8<2>(a, query, p); break;
    case 1: attend_int8<1>(a, query, p); break;
    default: break;
  }
}

constexpr InstructionSet with_attention_int8(InstructionSet set) {
  set.quantize_heads = quantize_heads;
  set.attention_int8_scratch = attention_int8_scratch;
  set.attention_int8 = attention_int8;
  return set;
}
