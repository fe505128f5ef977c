// SPDX-License-Identifier: Apache-2.0
// softmax(q kᵀ scale + penalty) v for one head. Included after simd.h.
//
// The unit of data is a dword: a pair of bfloat16 along the summed dimension, or one float. Both products then have the
// same loop: an accumulator tile of queries x columns, a broadcast dword of the left matrix, a panel of the right
// matrix with the columns in lanes. The panels are filled in each call.

#ifdef __AVX512F__
constexpr int kQueries = 6, kColumns = 4;  // 24 accumulators, 4 panel vectors, 1 broadcast: 29 of 32 registers
#elif defined(__AVX2__)
constexpr int kQueries = 6, kColumns = 1;  // 12 accumulators, 2 panel registers, 1 broadcast: 15 of 16
#else
constexpr int kQueries = 2, kColumns = 1;
#endif
constexpr int64_t kPair = 4 / static_cast<int64_t>(sizeof(Reduced));  // reduced values per dword

SD_INLINE F32 dot(F32 acc, I32 a, I32 b) {
#ifdef SD_BF16
  __m512 c = __m512(acc);
  asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(__m512i(a)), "v"(__m512i(b)));
  return F32(c);
#else
  return fma(as_f32(a), as_f32(b), acc);
#endif
}

// c[t][j] = sum_i a[t][i] . panel[i][j] for kQ rows and kC vectors of columns.
template <int kQ, int kC>
SD_INLINE void multiply(const int32_t *const *a, const int32_t *panel, int64_t panel_stride, int64_t count,
                        F32 (&c)[kQ][kC]) {
#pragma GCC unroll 6
  for (int t = 0; t < kQ; ++t)
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) c[t][j] = F32{};
  const int32_t *rows[kQ];
  for (int t = 0; t < kQ; ++t) rows[t] = a[t];
  for (int64_t i = 0; i < count; ++i, panel += panel_stride) {
    I32 b[kC];
#pragma GCC unroll 4
    for (int j = 0; j < kC; ++j) b[j] = load_i32(panel + j * 16);
#pragma GCC unroll 6
    for (int t = 0; t < kQ; ++t) {
      const I32 left = splat_i32(rows[t][i]);
#pragma GCC unroll 4
      for (int j = 0; j < kC; ++j) c[t][j] = dot(c[t][j], left, b[j]);
    }
  }
}

// v's panel: dword (pair of keys, column).
static void fill_value_panel(const Attention &a, int32_t *panel, int64_t columns) {
  const Reduced *v = static_cast<const Reduced *>(a.v);
  const int64_t pairs = round_up(a.keys, 64) / kPair;
  for (int64_t p = 0; p < pairs; ++p, panel += columns) {
    const int64_t key = p * kPair;
    if (key >= a.keys) {
      for (int64_t i = 0; i < columns; ++i) panel[i] = 0;
      continue;
    }
    const Reduced *low = v + key * a.stride;
#ifdef SD_BF16
    const bool both = key + 1 < a.keys;
    const Reduced *high = both ? low + a.stride : low;
    int64_t i = 0;
    for (; i + 16 <= a.head_size; i += 16) {
      const I32 l = __builtin_convertvector(*reinterpret_cast<const U16Unaligned *>(low + i), I32);
      const I32 h = __builtin_convertvector(*reinterpret_cast<const U16Unaligned *>(high + i), I32) << 16;
      store_i32(panel + i, both ? l | h : l);
    }
    for (; i < columns; ++i) {
      const uint32_t l = i < a.head_size ? low[i] : 0, h = both && i < a.head_size ? high[i] : 0;
      panel[i] = static_cast<int32_t>(l | h << 16);
    }
#else
    for (int64_t i = 0; i < columns; ++i) {
      const float value = i < a.head_size ? low[i] : 0.0f;
      __builtin_memcpy(panel + i, &value, 4);
    }
#endif
  }
}

// 2^x for x <= 0, to the 8 bits of a bfloat16 probability: cubic on |r| <= 0.5, relative error 1e-4.
SD_INLINE F32 power_of_two(F32 x) {
#ifdef __AVX512F__
  const F32 n = F32(_mm512_roundscale_ps(__m512(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const F32 unchanged = x;
  x = max(x, splat(-126.0f));
  const I32 integer = round_i32(x);
  const F32 n = to_f32(integer);
#endif
  const F32 r = x - n;
  F32 p = fma(splat(0.0558263180f), r, splat(0.2401395230f));
  p = fma(p, r, splat(0.6931530732f));
  p = fma(p, r, splat(0.9999254921f));
#ifdef __AVX512F__
  return F32(_mm512_scalef_ps(__m512(p), __m512(n)));
#else
  return fma(unchanged, splat(0.0f), as_f32(as_i32(p) + (integer << 23)));  // NaN stays NaN
#endif
}

static size_t attention_scratch(int64_t keys, int64_t head_size) {
  const int64_t padded = round_up(keys, 64), columns = round_up(head_size, 16 * kColumns);
  return static_cast<size_t>(padded * (head_size / kPair) * 4 + padded / kPair * columns * 4 +
                             kQueries * padded * (4 + 4) + 256);
}

// Sixteen of a row's position biases; zeros after the `left` existing ones.
SD_INLINE F32 load_bias(const float *bias, int64_t left) {
  if (left >= 16) return load(bias);
  return left > 0 ? load_part(bias, static_cast<int>(left)) : F32{};
}

// The keys inside the windows of `count` queries, in whole blocks of `block` keys.
struct KeyRange {
  int64_t begin, end;
};
template <typename Call>
SD_INLINE KeyRange keys_of(const Call &a, int64_t query, int64_t count, int64_t block) {
  const int64_t padded = round_up(a.keys, 64);
  if (!a.window) return {0, padded};
  const int64_t at = query - a.first_key, low = at - a.window, end = round_up(at + count + a.window, block);
  return {low > 0 ? low / block * block : 0, end < padded ? end : padded};
}

// Whether a block of keys is not completely inside the window of each of `count` queries.
template <typename Call>
SD_INLINE bool window_cuts(const Call &a, int64_t query, int64_t count, int64_t key, int64_t block) {
  const int64_t at = query - a.first_key;
  return a.window && (key < at + count - 1 - a.window || key + block - 1 > at + a.window);
}

// A query's scores of sixteen keys, plus the position bias and a penalty for keys outside the window. The penalty for
// padding is added elsewhere.
template <typename Call>
SD_INLINE F32 adjust(const Call &a, int64_t query, int64_t key, F32 v) {
  if (a.bias) v = fma(load_bias(a.bias + query * a.bias_stride + key, a.keys - key), splat(1.44269504f), v);
  if (a.window) {
    alignas(64) static const float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const F32 distance = abs(load(kLanes) + splat(static_cast<float>(key + a.first_key - query)));
    const F32 beyond = max(distance - splat(static_cast<float>(a.window)), splat(0.0f));
    v = fma(beyond, splat(-1e30f), v);
  }
  return v;
}

template <int kQ>
static void attend(const Attention &a, int64_t query, const int32_t *key_panel, const int32_t *value_panel,
                   int64_t columns, float *scores, int32_t *probabilities) {
  const int64_t padded = round_up(a.keys, 64), depth = a.head_size / kPair, pairs = padded / kPair;
  const Reduced *q = static_cast<const Reduced *>(a.q) + query * a.stride;
  const int32_t *rows[kQ];
  F32 highest[kQ];
  for (int t = 0; t < kQ; ++t) {
    rows[t] = reinterpret_cast<const int32_t *>(q + t * a.stride);
    highest[t] = splat(-3e38f);
  }
  const F32 scale = splat(a.scale * 1.44269504f);
  const KeyRange seen = keys_of(a, query, kQ, 16 * kColumns);
  for (int64_t key = seen.begin; key < seen.end; key += 16 * kColumns) {
    const bool adjusted = a.bias || window_cuts(a, query, kQ, key, 16 * kColumns);
    F32 c[kQ][kColumns];
    multiply<kQ, kColumns>(rows, key_panel + key * depth, 16 * kColumns, depth, c);
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const F32 penalty = load(a.penalty + key + j * 16);
#pragma GCC unroll 6
      for (int t = 0; t < kQ; ++t) {
        F32 v = fma(c[t][j], scale, penalty);
        if (adjusted) v = adjust(a, query + t, key + j * 16, v);
        highest[t] = max(highest[t], v);
        store(scores + t * padded + key + j * 16, v);
      }
    }
  }
  float inverse[kQ];
  for (int t = 0; t < kQ; ++t) {
    const F32 top = splat(reduce_max(highest[t]));
    F32 sum = {};
    for (int64_t key = seen.begin; key < seen.end; key += 16) {
      const F32 p = power_of_two(load(scores + t * padded + key) - top);
      sum += p;
      store_reduced(reinterpret_cast<Reduced *>(probabilities + t * pairs) + key, p);
    }
    inverse[t] = 1.0f / reduce_add(sum);
    rows[t] = probabilities + t * pairs + seen.begin / kPair;
  }
  Reduced *out = static_cast<Reduced *>(a.out) + (query - a.query_begin) * a.out_stride;
  for (int64_t column = 0; column < a.head_size; column += 16 * kColumns) {
    F32 c[kQ][kColumns];
    multiply<kQ, kColumns>(rows, value_panel + seen.begin / kPair * columns + column, columns,
                           (seen.end - seen.begin) / kPair, c);
#pragma GCC unroll 6
    for (int t = 0; t < kQ; ++t)
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) {
        const int64_t left = a.head_size - column - j * 16;
        if (left <= 0) break;
        Reduced *to = out + t * a.out_stride + column + j * 16;
        if (left >= 16)
          store_reduced(to, c[t][j] * inverse[t]);
        else
          store_reduced_part(to, c[t][j] * inverse[t], static_cast<int>(left));
      }
  }
}

static void attention(const Attention &a) {
  const int64_t padded = round_up(a.keys, 64), depth = a.head_size / kPair;
  const int64_t columns = round_up(a.head_size, 16 * kColumns);
  int32_t *key_panel = static_cast<int32_t *>(a.scratch);
  int32_t *value_panel = key_panel + padded * depth;
  float *scores = reinterpret_cast<float *>(value_panel + padded / kPair * columns);
  int32_t *probabilities = reinterpret_cast<int32_t *>(scores + kQueries * padded);
  const int32_t *k = static_cast<const int32_t *>(a.k);
  const int64_t row = a.stride / kPair;
  for (int64_t key = 0; key < padded; key += 16) {
    const int64_t block = key / (16 * kColumns) * (16 * kColumns);
    const int64_t valid = a.keys - key;
    transpose16(k + key * row, row, valid < 0 ? 0 : valid, depth, key_panel + block * depth + (key - block),
                16 * kColumns);
  }
  fill_value_panel(a, value_panel, columns);
  int64_t query = a.query_begin;
  for (; query + kQueries <= a.query_end; query += kQueries)
    attend<kQueries>(a, query, key_panel, value_panel, columns, scores, probabilities);
  switch (a.query_end - query) {
#ifdef __AVX2__
    case 5: attend<5>(a, query, key_panel, value_panel, columns, scores, probabilities); break;
    case 4: attend<4>(a, query, key_panel, value_panel, columns, scores, probabilities); break;
    case 3: attend<3>(a, query, key_panel, value_panel, columns, scores, probabilities); break;
    case 2: attend<2>(a, query, key_panel, value_panel, columns, scores, probabilities); break;
#endif
    case 1: attend<1>(a, query, key_panel, value_panel, columns, scores, probabilities); break;
    default: break;
  }
}
