// SPDX-License-Identifier: Apache-2.0
// Operations on whole rows (tokens): quantization, LayerNorm, gates, rotary positions. Included after simd.h.

// Sixteen elements, or the `left` existing ones and zeros.
SD_INLINE F32 load_row(const float *p, int64_t left) {
  return left >= 16 ? load(p) : load_part(p, static_cast<int>(left));
}
#ifdef SD_BF16
SD_INLINE F32 load_row(const Reduced *p, int64_t left) {
  if (left >= 16) return load_reduced(p);
  Reduced part[16] = {};
  for (int64_t i = 0; i < left; ++i) part[i] = p[i];
  return load_reduced(part);
}
#endif

struct Range {
  float lowest, highest;  // includes 0
  float spoilt;           // 0, or NaN if the row has a NaN or an infinity
};

// Detection of NaN: AVX-512 rounds NaN to the smallest int32, and checking the rounded values costs less than checking
// the values.
#ifdef __AVX512F__
constexpr bool kWatchRounded = true;
SD_INLINE I32 min_i32(I32 a, I32 b) { return I32(_mm512_min_epi32(__m512i(a), __m512i(b))); }
SD_INLINE bool holds_least(I32 v) { return _mm512_reduce_min_epi32(__m512i(v)) == INT32_MIN; }
#else
constexpr bool kWatchRounded = false;
SD_INLINE I32 min_i32(I32 a, I32) { return a; }
SD_INLINE bool holds_least(I32) { return false; }
#endif

// 0, or NaN if one of 16 values is NaN or infinite.
SD_INLINE F32 watch(F32 v, F32 spoilt) { return kWatchRounded ? spoilt : fma(v, splat(0.0f), spoilt); }

template <typename T>
static Range find_range(const T *x, int64_t k) {
  F32 low = {}, high = {}, spoilt = {}, low2 = {}, high2 = {}, spoilt2 = {};
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
    const F32 a = load_row(x + i, 16), b = load_row(x + i + 16, 16);
    low = min(low, a);
    high = max(high, a);
    spoilt = watch(a, spoilt);
    low2 = min(low2, b);
    high2 = max(high2, b);
    spoilt2 = watch(b, spoilt2);
  }
  for (; i < k; i += 16) {
    const F32 v = load_row(x + i, k - i);
    low = min(low, v);
    high = max(high, v);
    spoilt = watch(v, spoilt);
  }
  return {reduce_min(min(low, low2)), reduce_max(max(high, high2)), kWatchRounded ? 0 : reduce_add(spoilt + spoilt2)};
}

// 0 if the row has a detected NaN or an infinity.
SD_INLINE float scale_of(const Range &range) {
  constexpr float kSmallest = 1.17549435e-38f, kLargest = 3.40282347e38f;
  if (range.spoilt != 0) return 0;
  float scale = (range.highest - range.lowest) / 255.0f;
  if (!(scale <= kLargest)) scale = range.highest / 255.0f - range.lowest / 255.0f;
  if (!(scale <= kLargest)) return 0;
  if (!(scale > 0)) return 1;
  return scale < kSmallest ? kSmallest : scale;  // the inverse of a smaller scale is infinite
}

// Stored form of u8: unchanged, or minus 128 if the products use signed activations.
#ifdef SD_SIGNED_ACTIVATIONS
constexpr int32_t kStoredOffset = 128;
SD_INLINE void store_quantized(uint8_t *p, I32 v) {
  store_u8(p, v);
  *reinterpret_cast<U8Unaligned *>(p) ^= 128;
}
#else
constexpr int32_t kStoredOffset = 0;
SD_INLINE void store_quantized(uint8_t *p, I32 v) { store_u8(p, v); }
#endif

// Quantizes a row with its scale. Returns 0, or NaN if the row has a NaN or an infinity; with kCheck false, checks only
// values that find_range did not check.
template <bool kCheck, typename T>
static float quantize_row(const T *x, int64_t k, float scale, int32_t zero, uint8_t *y) {
  const F32 inverse = splat(1.0f / scale);
  const I32 offset = splat_i32(zero);
  I32 least = {};
  F32 spoilt = {};
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
    const F32 v = load_row(x + i, 16);
    const I32 rounded = round_i32(v * inverse);
    least = min_i32(least, rounded);
    if (kCheck) spoilt = watch(v, spoilt);
    store_quantized(y + i, rounded + offset);
  }
  if (i < k) {
    const F32 v = load_row(x + i, k - i);
    const I32 rounded = round_i32(v * inverse);
    least = min_i32(least, rounded);
    if (kCheck) spoilt = watch(v, spoilt);
    store_quantized(y + i, rounded + offset);
  }
  if (holds_least(least))  // also true for a number far outside a fixed range
    for (i = 0; i < k; i += 16) spoilt = fma(load_row(x + i, k - i), splat(0.0f), spoilt);
  else if (kWatchRounded || !kCheck)
    return 0;
  return reduce_add(spoilt);
}

template <typename T>
static void quantize_rows(const T *x, int64_t x_stride, int64_t rows, int64_t k, float fixed_scale, int32_t fixed_zero,
                          uint8_t *y, int64_t y_stride, float *token_scale, float *token_shift) {
  for (int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    float scale = fixed_scale, spoilt = 0;
    int32_t zero = fixed_zero;
    if (fixed_scale == 0) {
      const Range range = find_range(x, k);
      scale = scale_of(range);
      if (scale == 0) {
        scale = 1;
        zero = 0;
        spoilt = __builtin_nanf("");
        quantize_row<false>(x, k, scale, zero, y);
      } else {
        zero = static_cast<int32_t>(-range.lowest / scale + 0.5f);
        spoilt = quantize_row<false>(x, k, scale, zero, y);
      }
    } else {
      spoilt = quantize_row<true>(x, k, scale, zero, y);
    }
    token_scale[r] = scale + spoilt;
    token_shift[r] = scale * static_cast<float>(zero - kStoredOffset) + spoilt;
  }
}

static void quantize(const void *x, bool reduced, int64_t x_stride, int64_t rows, int64_t k, float scale,
                     int32_t zero_point, uint8_t *y, int64_t y_stride, float *token_scale, float *token_shift) {
  if (reduced)
    quantize_rows(static_cast<const Reduced *>(x), x_stride, rows, k, scale, zero_point, y, y_stride, token_scale,
                  token_shift);
  else
    quantize_rows(static_cast<const float *>(x), x_stride, rows, k, scale, zero_point, y, y_stride, token_scale,
                  token_shift);
}

// Row r of a reordered matrix in the original order, plus the residual.
static const float *restore_row(const float *x, int64_t n, const Reordered &order, int64_t r) {
  const float *residual = order.residual + r * order.residual_stride;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(order.row + i, load(residual + i) + gather(x, order.position + i));
  for (; i < n; ++i) order.row[i] = x[order.position[i]] + residual[i];
  return order.row;
}

static void restore(const float *x, const Reordered &order, int64_t n) { restore_row(x, n, order, 0); }

static void gate(const void *a, const void *b, int64_t n, float *y) {
  const Reduced *left = static_cast<const Reduced *>(a), *right = static_cast<const Reduced *>(b);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, load_reduced(left + i) * load_reduced(right + i));
  if (i < n) store_part(y + i, load_row(left + i, n - i) * load_row(right + i, n - i), static_cast<int>(n - i));
}

static void rotate(void *row, int64_t heads, int64_t head_size, const float *cos, const float *sin) {
  const int64_t half = head_size / 2;
  Reduced *a = static_cast<Reduced *>(row);
  for (int64_t h = 0; h < heads; ++h, a += head_size) {
    Reduced *b = a + half;
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t left = half - i;
      const F32 x = load_row(a + i, left), y = load_row(b + i, left);
      const F32 low = x * load_row(cos + i, left) - y * load_row(sin + i, left);
      const F32 high = fma(y, load_row(cos + half + i, left), x * load_row(sin + half + i, left));
      if (left >= 16) {
        store_reduced(a + i, low);
        store_reduced(b + i, high);
      } else {
        store_reduced_part(a + i, low, static_cast<int>(left));
        store_reduced_part(b + i, high, static_cast<int>(left));
      }
    }
  }
}

// Two passes over a row, the second one from L1: mean, then the squares of the differences (a single pass over sums of
// squares loses digits if the mean is large).
static void layer_norm(const float *matrix, const Reordered &order, int64_t rows, int64_t n, const LayerNorm &norm,
                       float *y) {
  const float inverse_n = 1.0f / static_cast<float>(n);
  for (int64_t r = 0; r < rows; ++r, matrix += n, y += n) {
    const float *x = order.position ? restore_row(matrix, n, order, r) : matrix;
    F32 sum = {}, sum2 = {};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      sum += load(x + i);
      sum2 += load(x + i + 16);
    }
    for (; i < n; i += 16) sum += load_row(x + i, n - i);
    const F32 mean = splat(reduce_add(sum + sum2) * inverse_n);
    F32 square = {}, square2 = {};
    for (i = 0; i + 32 <= n; i += 32) {
      const F32 a = load(x + i) - mean, b = load(x + i + 16) - mean;
      square = fma(a, a, square);
      square2 = fma(b, b, square2);
    }
    for (; i < n; i += 16) {
      const int64_t left = n - i;
      const F32 d = load_row(x + i, left) - (left >= 16 ? mean : load_part(reinterpret_cast<const float *>(&mean),
                                                                            static_cast<int>(left)));
      square = fma(d, d, square);
    }
    const float variance = reduce_add(square + square2) * inverse_n;
    const F32 inverse = splat(1.0f / __builtin_sqrtf(variance + norm.epsilon));
    for (i = 0; i + 16 <= n; i += 16)
      store(y + i, fma((load(x + i) - mean) * inverse, load(norm.gamma + i), load(norm.beta + i)));
    if (i < n) {
      const int count = static_cast<int>(n - i);
      const F32 gamma = load_part(norm.gamma + i, count), beta = load_part(norm.beta + i, count);
      store_part(y + i, fma((load_part(x + i, count) - mean) * inverse, gamma, beta), count);
    }
  }
}
