// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes of float or int32 with the instructions of the translation unit. Included only by the files in
// instruction_sets/, inside their namespaces: the linker could take a shared function from the wrong file, which faults
// on a CPU without its instructions. For the same reason nothing here uses the C++ library.

#pragma GCC diagnostic ignored "-Wpsabi"  // no vector crosses a translation unit

#define SD_INLINE static inline __attribute__((always_inline))
#define SD_INLINE_MEMBER inline __attribute__((always_inline))
#define SD_LAMBDA __attribute__((always_inline))

typedef uint16_t U16 __attribute__((vector_size(32)));
typedef uint16_t U16Unaligned __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t U8 __attribute__((vector_size(16)));
typedef uint8_t U8Unaligned __attribute__((vector_size(16), aligned(1), may_alias));

#if defined(__AVX2__) && !defined(__AVX512F__)
#include "simd_256.h"
#else
typedef float F32 __attribute__((vector_size(64)));
typedef float F32Unaligned __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef int32_t I32Unaligned __attribute__((vector_size(64), aligned(4), may_alias));

SD_INLINE F32 load(const float *p) { return *reinterpret_cast<const F32Unaligned *>(p); }
SD_INLINE void store(float *p, F32 v) { *reinterpret_cast<F32Unaligned *>(p) = v; }
SD_INLINE F32 splat(float v) { return F32{} + v; }
SD_INLINE I32 splat_i32(int32_t v) { return I32{} + v; }
SD_INLINE F32 as_f32(I32 v) { return reinterpret_cast<F32>(v); }
SD_INLINE I32 as_i32(F32 v) { return reinterpret_cast<I32>(v); }
SD_INLINE F32 to_f32(I32 v) { return __builtin_convertvector(v, F32); }
SD_INLINE I32 load_i32(const int32_t *p) { return *reinterpret_cast<const I32Unaligned *>(p); }
SD_INLINE void store_i32(int32_t *p, I32 v) { *reinterpret_cast<I32Unaligned *>(p) = v; }

#ifdef __AVX512F__
// With a NaN and a number, both return b.
SD_INLINE F32 min(F32 a, F32 b) { return F32(_mm512_min_ps(__m512(a), __m512(b))); }
SD_INLINE F32 max(F32 a, F32 b) { return F32(_mm512_max_ps(__m512(a), __m512(b))); }
SD_INLINE F32 fma(F32 a, F32 b, F32 c) { return F32(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c))); }
SD_INLINE I32 round_i32(F32 v) { return I32(_mm512_cvtps_epi32(__m512(v))); }
SD_INLINE float reduce_add(F32 v) { return _mm512_reduce_add_ps(__m512(v)); }
SD_INLINE float reduce_min(F32 v) { return _mm512_reduce_min_ps(__m512(v)); }
SD_INLINE float reduce_max(F32 v) { return _mm512_reduce_max_ps(__m512(v)); }
SD_INLINE F32 lookup(const float *table, I32 index) {
  return F32(_mm512_permutexvar_ps(__m512i(index), _mm512_load_ps(table)));
}
SD_INLINE F32 gather(const float *table, const int32_t *index) {
  return F32(_mm512_i32gather_ps(_mm512_loadu_si512(index), table, 4));
}
// 0 ... 255, saturated.
SD_INLINE void store_u8(uint8_t *p, I32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p),
                   _mm512_cvtusepi32_epi8(_mm512_max_epi32(__m512i(v), _mm512_setzero_si512())));
}
// The first `count` lanes.
SD_INLINE F32 load_part(const float *p, int count) {
  return F32(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p));
}
SD_INLINE void store_part(float *p, F32 v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), __m512(v));
}
SD_INLINE void store_i32(int32_t *p, I32 v, int count) {
  _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << count) - 1), __m512i(v));
}
#else
SD_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }
SD_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }
// Contracted to one instruction if the set has FMA.
SD_INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
// To nearest even for |v| < 2^22: the addition rounds at the last integer bit.
SD_INLINE I32 round_i32(F32 v) {
  const float magic = 12582912.0f;  // 1.5 * 2^23
  v = min(max(v, splat(-4194303.0f)), splat(4194303.0f));
  return as_i32(v + magic) - 0x4b400000;
}
SD_INLINE float reduce_add(F32 v) {
  for (int i = 8; i; i /= 2)
    for (int j = 0; j < i; ++j) v[j] += v[j + i];
  return v[0];
}
SD_INLINE float reduce_min(F32 v) {
  float m = v[0];
  for (int i = 1; i < 16; ++i) m = v[i] < m ? v[i] : m;
  return m;
}
SD_INLINE float reduce_max(F32 v) {
  float m = v[0];
  for (int i = 1; i < 16; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
SD_INLINE F32 lookup(const float *table, I32 index) {
  F32 v;
  for (int i = 0; i < 16; ++i) v[i] = table[index[i] & 15];
  return v;
}
SD_INLINE F32 gather(const float *table, const int32_t *index) {
  F32 v;
  for (int i = 0; i < 16; ++i) v[i] = table[index[i]];
  return v;
}
SD_INLINE void store_u8(uint8_t *p, I32 v) {
  v = v < 0 ? splat_i32(0) : v;
  v = v > 255 ? splat_i32(255) : v;
  *reinterpret_cast<U8Unaligned *>(p) = __builtin_convertvector(v, U8);
}
SD_INLINE F32 load_part(const float *p, int count) {
  F32 v = {};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
SD_INLINE void store_part(float *p, F32 v, int count) {
  for (int i = 0; i < count; ++i) p[i] = v[i];
}
SD_INLINE void store_i32(int32_t *p, I32 v, int count) {
  for (int i = 0; i < count; ++i) p[i] = v[i];
}
#endif
#endif

SD_INLINE F32 abs(F32 v) { return as_f32(as_i32(v) & 0x7fffffff); }

// e^x for x up to about 0: 2^n * p(r), degree 5 Taylor in r * ln 2 over |r| <= 0.5; relative error below 4e-6. Below
// -87 the result is the smallest normal number times p, which softmax cannot distinguish from 0.
SD_INLINE F32 exp(F32 x) {
  x = max(x, splat(-87.0f));
  const F32 t = x * 1.44269504f;
  const I32 n = round_i32(t);
  const F32 r = (t - to_f32(n)) * 0.693147181f;
  F32 p = splat(1.0f / 120);
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return as_f32(as_i32(p) + (n << 23));
}

// The reduced type: bfloat16 if the CPU multiplies it, else float.
#ifdef SD_BF16
typedef uint16_t Reduced;
SD_INLINE F32 load_reduced(const Reduced *p) {
  return as_f32(__builtin_convertvector(*reinterpret_cast<const U16Unaligned *>(p), I32) << 16);
}
SD_INLINE void store_reduced(Reduced *p, F32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(__m512(v))));
}
SD_INLINE void store_reduced_part(Reduced *p, F32 v, int count) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1),
                           reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(__m512(v))));
}
#else
typedef float Reduced;
SD_INLINE F32 load_reduced(const Reduced *p) { return load(p); }
SD_INLINE void store_reduced(Reduced *p, F32 v) { store(p, v); }
SD_INLINE void store_reduced_part(Reduced *p, F32 v, int count) { store_part(p, v, count); }
#endif
