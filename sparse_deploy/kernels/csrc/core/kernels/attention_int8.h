// SPDX-License-Identifier: Apache-2.0
// softmax(q kᵀ scale + penalty) v for one head with both products in INT8. Included after attention.h and dot.h.
//
// q, k and v have a scale per token and head. q is u8 around 128, which is corrected by starting the accumulators at
// -128 * (sum of the key). A probability is multiplied by the scale of its value before it is quantized to u8; the
// largest probability of a row is 1 before the division by the sum, so 255 / (largest value scale of the head) is a
// safe factor and no second pass is needed. Twice as fast as bfloat16 (benchmarks/notes.md).

// Both products use one loop: accumulators of queries x columns, a broadcast dword of the left matrix, a panel of the
// right matrix with the columns in lanes. A dword is four bytes, or two words without an 8-bit dot product.
#ifdef SD_PAIRS_OF_PRODUCTS
constexpr int64_t kPerDword = 2;
typedef int16_t Left;  // query minus 128, and probability
SD_INLINE void add_dwords(I32 &sums, I32 left, I32 right) {
  add_sums(sums.low, multiply_words(left.low, right.low));
  add_sums(sums.high, multiply_words(left.high, right.high));
}
SD_INLINE void store_probabilities(Left *p, I32 v) {
  const __m256i words = _mm256_packs_epi32(v.low, v.high);  // 0 ... 3, 8 ... 11, 4 ... 7, 12 ... 15
  _mm256_store_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(words, 0xd8));
}
#else
constexpr int64_t kPerDword = 4;
typedef uint8_t Left;
#ifdef __AVX512F__
SD_INLINE void add_dwords(I32 &sums, I32 left, I32 right) {
  __m512i sum = __m512i(sums);
  add_products(sum, __m512i(left), __m512i(right));
  sums = I32(sum);
}
#else
SD_INLINE void add_dwords(I32 &sums, I32 left, I32 right) {
  add_products(sums.low, left.low, right.low);
  add_products(sums.high, left.high, right.high);
}
#endif
SD_INLINE void store_probabilities(Left *p, I32 v) { store_u8(p, v); }
#endif
constexpr int64_t kBlockKeys = 16 * kColumns;

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
      // NaN if the head has a NaN or an infinity.
      const float scale = (largest > 0 ? largest / 127.0f : 1.0f) + reduce_add(spoilt);
      const F32 inverse = splat(1.0f / scale);
      const I32 bias = splat_i32(h < biased_heads ? 128 : 0);
      for (int64_t i = 0; i < head_size; i += 16)
        store_u8(y + h * head_size + i, (round_i32(load_reduced(head + i) * inverse) + bias) & 255);
      scales[h] = scale;
    }
  }
}

// Panel of values: [keys / kPerDword][head_size] dwords of neighbouring keys.
static void fill_value_panel_int8(const AttentionInt8 &a, int32_t *panel) {
  const int64_t padded = round_up(a.keys, 64);
  for (int64_t key = 0; key < padded; key += 4, panel += 4 / kPerDword * a.head_size) {
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
#ifdef SD_PAIRS_OF_PRODUCTS
      __m256i *first = reinterpret_cast<__m256i *>(panel + c);
      __m256i *second = reinterpret_cast<__m256i *>(panel + a.head_size + c);
      _mm256_storeu_si256(first, _mm256_cvtepi8_epi16(a0));
      _mm256_storeu_si256(first + 1, _mm256_cvtepi8_epi16(a1));
      _mm256_storeu_si256(second, _mm256_cvtepi8_epi16(b0));
      _mm256_storeu_si256(second + 1, _mm256_cvtepi8_epi16(b1));
#else
      __m128i *to = reinterpret_cast<__m128i *>(panel + c);
      _mm_store_si128(to, _mm_unpacklo_epi16(a0, b0));
      _mm_store_si128(to + 1, _mm_unpackhi_epi16(a0, b0));
      _mm_store_si128(to + 2, _mm_unpacklo_epi16(a1, b1));
      _mm_store_si128(to + 3, _mm_unpackhi_epi16(a1, b1));
#endif
    }
  }
}

// The buffers of a head, in the scratch.
struct HeadPanels {
  int32_t *keys, *values;  // dwords: [block of keys][head_size / kPerDword][kBlockKeys], [keys / kPerDword][head_size]
  int32_t *start;          // [padded]: initial values of the accumulators
  float *key_scale;        // [padded]: times the softmax's scale and log2(e)
  float *value_scale;      // [padded]: times 255 / largest
  float *scores;           // [kQueries, padded]
  Left *probabilities;     // [kQueries, padded]
  Left *queries;           // [kQueries, head_size], if they are widened
  float value_unit;        // largest value scale / 255
};

static size_t attention_int8_scratch(int64_t keys, int64_t head_size) {
  const int64_t padded = round_up(keys, 64), left = static_cast<int64_t>(sizeof(Left));
  return static_cast<size_t>(8 / kPerDword * padded * head_size + 12 * padded + kQueries * padded * (4 + left) +
                             kQueries * head_size * left + 1024);
}

// Dwords of the keys [key, key + 16), and the initial values of their accumulators.
static void fill_key_panel_int8(const AttentionInt8 &a, int64_t key, const HeadPanels &p) {
  const int64_t dwords = a.head_size / 4, depth = a.head_size / kPerDword, valid = a.keys - key;
  int32_t *panel = p.keys + key / kBlockKeys * kBlockKeys * depth + key % kBlockKeys;
  const int64_t stride = 4 / kPerDword * kBlockKeys;
  transpose16(reinterpret_cast<const int32_t *>(a.k + key * a.stride), a.stride / 4, valid < 0 ? 0 : valid, dwords, panel,
              stride);
#ifdef SD_PAIRS_OF_PRODUCTS
  // Bytes 0 and 2 of each four as words, then 1 and 3.
  for (int64_t i = 0; i < dwords; ++i, panel += stride) {
    const I32 bytes = load_i32(panel);
    store_i32(panel, {_mm256_srai_epi16(_mm256_slli_epi16(bytes.low, 8), 8),
                      _mm256_srai_epi16(_mm256_slli_epi16(bytes.high, 8), 8)});
    store_i32(panel + kBlockKeys, {_mm256_srai_epi16(bytes.low, 8), _mm256_srai_epi16(bytes.high, 8)});
  }
  store_i32(p.start + key, splat_i32(0));
#else
  I32 sum = {};
  for (int64_t i = 0; i < dwords; ++i) add_dwords(sum, splat_i32(0x01010101), load_i32(panel + i * stride));
  store_i32(p.start + key, sum * -128);  // corrects for queries stored around 128
#endif
}

// A query as the left matrix of a product.
SD_INLINE const int32_t *query_dwords(const AttentionInt8 &a, int64_t query, Left *widened) {
  const uint8_t *q = a.q + query * a.stride;
#ifdef SD_PAIRS_OF_PRODUCTS
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6, 7, 8, 9,
                                         12, 13, 10, 11, 14, 15);
  for (int64_t i = 0; i < a.head_size; i += 16) {
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(q + i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(widened + i),
                        _mm256_shuffle_epi8(_mm256_sub_epi16(words, _mm256_set1_epi16(128)), order));
  }
  return reinterpret_cast<const int32_t *>(widened);
#else
  (void)widened;
  return reinterpret_cast<const int32_t *>(q);
#endif
}

template <int kQ, int kC>
SD_INLINE void multiply_dwords(const int32_t *const *a, const int32_t *panel, int64_t panel_stride, int64_t count,
                               I32 (&c)[kQ][kC]) {
  const int32_t *rows[kQ];
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t) rows[t] = a[t];
  for (int64_t i = 0; i < count; ++i, panel += panel_stride) {
    I32 b[kC];
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) b[j] = load_i32(panel + j * 16);
#pragma GCC unroll 6
    for (int t = 0; t < kQ; ++t) {
      const I32 left = splat_i32(rows[t][i]);
#pragma GCC unroll 4
      for (int j = 0; j < kC; ++j) add_dwords(c[t][j], left, b[j]);
    }
  }
}

// Columns [column, column + 16 kC) of the outputs of kQ queries.
template <int kQ, int kC>
SD_INLINE void weigh_values(const AttentionInt8 &a, const HeadPanels &p, const KeyRange &seen, int64_t column,
                            const float *factor, Reduced *out) {
  const int64_t padded = round_up(a.keys, 64);
  const int32_t *rows[kQ];
  I32 c[kQ][kC];
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t) {
    rows[t] = reinterpret_cast<const int32_t *>(p.probabilities + t * padded + seen.begin);
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) c[t][j] = I32{};
  }
  multiply_dwords<kQ, kC>(rows, p.values + seen.begin / kPerDword * a.head_size + column, a.head_size,
                          (seen.end - seen.begin) / kPerDword, c);
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t)
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) store_reduced(out + t * a.out_stride + column + j * 16, to_f32(c[t][j]) * factor[t]);
}

template <int kQ>
static void attend_int8(const AttentionInt8 &a, int64_t query, const HeadPanels &p) {
  const int64_t padded = round_up(a.keys, 64), depth = a.head_size / kPerDword;
  const int32_t *rows[kQ];
  F32 highest[kQ], scale[kQ];
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t) {
    rows[t] = query_dwords(a, query + t, p.queries + t * a.head_size);
    scale[t] = splat(a.q_scale[(query + t) * a.scale_stride]);
    highest[t] = splat(-3e38f);
  }
  const KeyRange seen = keys_of(a, query, kQ, kBlockKeys);
  for (int64_t key = seen.begin; key < seen.end; key += kBlockKeys) {
    const bool adjusted = a.bias || window_cuts(a, query, kQ, key, kBlockKeys);
    I32 c[kQ][kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const I32 start = load_i32(p.start + key + j * 16);
#pragma GCC unroll 6
      for (int t = 0; t < kQ; ++t) c[t][j] = start;
    }
    multiply_dwords<kQ, kColumns>(rows, p.keys + key * depth, kBlockKeys, depth, c);
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const F32 penalty = load(a.penalty + key + j * 16), key_scale = load(p.key_scale + key + j * 16);
#pragma GCC unroll 6
      for (int t = 0; t < kQ; ++t) {
        F32 v = fma(to_f32(c[t][j]), key_scale * scale[t], penalty);
        if (adjusted) v = adjust(a, query + t, key + j * 16, v);
        highest[t] = max(highest[t], v);
        store(p.scores + t * padded + key + j * 16, v);
      }
    }
  }
  float factor[kQ];
  for (int t = 0; t < kQ; ++t) {
    const F32 top = splat(reduce_max(highest[t]));
    const float *scores = p.scores + t * padded;
    Left *probabilities = p.probabilities + t * padded;
    F32 sum = {};
    for (int64_t key = seen.begin; key < seen.end; key += 16) {
      const F32 v = power_of_two(load(scores + key) - top);
      sum += v;
      store_probabilities(probabilities + key, round_i32(v * load(p.value_scale + key)));
    }
    factor[t] = p.value_unit / reduce_add(sum);
  }
  Reduced *out = static_cast<Reduced *>(a.out) + (query - a.query_begin) * a.out_stride;
  int64_t column = 0;
  if constexpr (kColumns == 4) {
    for (; column + 64 <= a.head_size; column += 64) weigh_values<kQ, 4>(a, p, seen, column, factor, out);
    for (; column + 32 <= a.head_size; column += 32) weigh_values<kQ, 2>(a, p, seen, column, factor, out);
  }
  for (; column < a.head_size; column += 16) weigh_values<kQ, 1>(a, p, seen, column, factor, out);
}

static void attention_int8(const AttentionInt8 &a) {
  const int64_t padded = round_up(a.keys, 64), depth = a.head_size / kPerDword;
  HeadPanels p;
  p.keys = static_cast<int32_t *>(a.scratch);
  p.values = p.keys + padded * depth;
  p.start = p.values + padded * depth;
  p.key_scale = reinterpret_cast<float *>(p.start + padded);
  p.value_scale = p.key_scale + padded;
  p.scores = p.value_scale + padded;
  p.probabilities = reinterpret_cast<Left *>(p.scores + kQueries * padded);
  p.queries = p.probabilities + kQueries * padded;
  for (int64_t key = 0; key < padded; key += 16) fill_key_panel_int8(a, key, p);
  float largest = 0;
  for (int64_t i = 0; i < a.keys; ++i) {
    p.key_scale[i] = a.k_scale[i * a.scale_stride] * a.scale * 1.44269504f;
    p.value_scale[i] = a.v_scale[i * a.scale_stride];
    if (a.penalty[i] == 0 && p.value_scale[i] > largest) largest = p.value_scale[i];
  }
  // Equal for all queries of a sequence, for any distribution over threads.
  if (a.window) largest = a.largest_v_scale;
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
