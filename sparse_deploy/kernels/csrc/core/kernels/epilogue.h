// SPDX-License-Identifier: Apache-2.0
// Computes the outputs of a layer from int32 accumulators, in registers. Included after simd.h.

// GELU(x) = max(x, 0) - |x| Q(|x|), where Q is the tail of the activation's distribution function (normal for the erf
// form), symmetric in both forms. Q is approximated by 16 parabolas around i/4, i = 0 ... 15; for |x| > 3.874 the
// product |x| Q(|x|) is constant. Largest error 2e-4 (3e-5 for |x| < 3.8): a hundredth of the 8-bit step that follows.
SD_INLINE F32 gelu(F32 x, const GeluTable &table) {
  const F32 a = min(splat(3.874f), abs(x));  // this order of the arguments propagates NaN
  const F32 shifted = fma(a, splat(4.0f), splat(8388608.0f));  // the nearest integer is now in the low bits
  const I32 segment = as_i32(shifted) & 15;
  F32 q = fma(lookup(table.c2, segment), a, lookup(table.c1, segment));
  q = fma(q, a, lookup(table.c0, segment));
  return max(x, splat(0.0f)) - a * q;
}

// Columns [column, column + 16) of `tokens` rows, starting at row `token`.
template <int kTokens>
SD_INLINE void finish(const I32 (&acc)[kTokens], const Epilogue &e, int64_t column, int64_t token) {
  const int64_t left = e.n - column;
  if (left <= 0) return;
  const int count = left < 16 ? static_cast<int>(left) : 16;
  if (e.output == kInt32) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t)
      store_i32(static_cast<int32_t *>(e.out) + (token + t) * e.out_stride + column, acc[t], count);
    return;
  }
  F32 y[kTokens];
  const F32 scale = load(e.scale + column), bias = load(e.bias + column), sum = load(e.sum + column);
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t)
    y[t] = fma(to_f32(acc[t]), scale * e.token_scale[token + t], fma(sum, splat(-e.token_shift[token + t]), bias));
  switch (e.activation) {
    case SD_ACTIVATION_GELU:
    case SD_ACTIVATION_GELU_TANH: {
      const GeluTable &table = e.activation == SD_ACTIVATION_GELU ? *kGelu : *kGeluTanh;
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) y[t] = gelu(y[t], table);
      break;
    }
    case SD_ACTIVATION_RELU:
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) y[t] = max(splat(0.0f), y[t]);  // propagates NaN
      break;
    default: break;
  }
  if (e.residual) {
    const float *residual = e.residual + token * e.residual_stride + column;
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t)
      y[t] += count == 16 ? load(residual + t * e.residual_stride) : load_part(residual + t * e.residual_stride, count);
  }
  if (e.output == kFloat) {
    float *out = static_cast<float *>(e.out) + token * e.out_stride + column;
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      if (count == 16)
        store(out + t * e.out_stride, y[t]);
      else
        store_part(out + t * e.out_stride, y[t], count);
    }
  } else {
    Reduced *out = static_cast<Reduced *>(e.out) + token * e.out_stride + column;
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      if (count == 16)
        store_reduced(out + t * e.out_stride, y[t]);
      else
        store_reduced_part(out + t * e.out_stride, y[t], count);
    }
  }
}
