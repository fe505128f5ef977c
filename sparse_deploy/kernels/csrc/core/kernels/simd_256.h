// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes in two registers of AVX2. Included by simd.h. A vector type of 64 bytes would be equivalent, but GCC 12
// keeps its values in memory.

struct __attribute__((may_alias)) F32 {
  __m256 low, high;
};
struct __attribute__((may_alias)) I32 {
  __m256i low, high;
};

#define SD_BY_HALVES(Type, op)                                                                                        \
  SD_INLINE Type operator op(Type a, Type b) { return {a.low op b.low, a.high op b.high}; }                            \
  SD_INLINE Type &operator op##=(Type &a, Type b) { return a = a op b; }
SD_BY_HALVES(F32, +)
SD_BY_HALVES(F32, -)
SD_BY_HALVES(F32, *)
SD_BY_HALVES(I32, &)
SD_BY_HALVES(I32, |)
#undef SD_BY_HALVES
SD_INLINE I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
SD_INLINE I32 operator-(I32 a, I32 b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
SD_INLINE I32 operator*(I32 a, I32 b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
SD_INLINE I32 operator<<(I32 v, int by) { return {_mm256_slli_epi32(v.low, by), _mm256_slli_epi32(v.high, by)}; }

SD_INLINE F32 splat(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
SD_INLINE I32 splat_i32(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
SD_INLINE F32 operator*(F32 a, float b) { return a * splat(b); }
SD_INLINE I32 operator&(I32 a, int32_t b) { return a & splat_i32(b); }
SD_INLINE I32 operator*(I32 a, int32_t b) { return a * splat_i32(b); }

SD_INLINE F32 load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
SD_INLINE void store(float *p, F32 v) {
  _mm256_storeu_ps(p, v.low);
  _mm256_storeu_ps(p + 8, v.high);
}
SD_INLINE I32 load_i32(const int32_t *p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 8))};
}
SD_INLINE void store_i32(int32_t *p, I32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), v.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 8), v.high);
}
SD_INLINE F32 as_f32(I32 v) { return {_mm256_castsi256_ps(v.low), _mm256_castsi256_ps(v.high)}; }
SD_INLINE I32 as_i32(F32 v) { return {_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)}; }
SD_INLINE F32 to_f32(I32 v) { return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)}; }
// With a NaN and a number, both return b.
SD_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
SD_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
SD_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// To nearest even; a value outside int32 becomes a large number.
SD_INLINE I32 round_i32(F32 v) {
  v = min(v, splat(1e9f));
  return {_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)};
}
SD_INLINE float reduce_add(F32 v) {
  const __m256 eight = v.low + v.high;
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return _mm_cvtss_f32(two + _mm_movehdup_ps(two));
}
SD_INLINE float reduce_min(F32 v) {
  const __m256 eight = _mm256_min_ps(v.low, v.high);
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ps(two, _mm_movehdup_ps(two)));
}
SD_INLINE float reduce_max(F32 v) {
  const __m256 eight = _mm256_max_ps(v.low, v.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ps(two, _mm_movehdup_ps(two)));
}
// table[index] of sixteen entries.
SD_INLINE __m256 lookup_half(const float *table, __m256i index) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(table), index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), index);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
SD_INLINE F32 lookup(const float *table, I32 index) {
  return {lookup_half(table, index.low), lookup_half(table, index.high)};
}
SD_INLINE F32 gather(const float *table, const int32_t *index) {
  return {_mm256_i32gather_ps(table, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(index)), 4),
          _mm256_i32gather_ps(table, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(index + 8)), 4)};
}
// 0 ... 255, saturated.
SD_INLINE void store_u8(uint8_t *p, I32 v) {
  const __m256i words = _mm256_packs_epi32(v.low, v.high);  // 0 ... 3, 8 ... 11, 4 ... 7, 12 ... 15
  const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
  const __m128i bytes = _mm_packus_epi16(low, high);
  _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm_shuffle_epi32(bytes, _MM_SHUFFLE(3, 1, 2, 0)));
}
// The first `count` lanes.
SD_INLINE I32 lanes_before(int count) {
  const __m256i eight = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), all = _mm256_set1_epi32(count);
  return {_mm256_cmpgt_epi32(all, eight), _mm256_cmpgt_epi32(all, _mm256_add_epi32(eight, _mm256_set1_epi32(8)))};
}
SD_INLINE F32 load_part(const float *p, int count) {
  const I32 mask = lanes_before(count);
  return {_mm256_maskload_ps(p, mask.low), _mm256_maskload_ps(p + 8, mask.high)};
}
SD_INLINE void store_part(float *p, F32 v, int count) {
  const I32 mask = lanes_before(count);
  _mm256_maskstore_ps(p, mask.low, v.low);
  _mm256_maskstore_ps(p + 8, mask.high, v.high);
}
SD_INLINE void store_i32(int32_t *p, I32 v, int count) {
  if (count == 16) return store_i32(p, v);
  const I32 mask = lanes_before(count);
  _mm256_maskstore_epi32(p, mask.low, v.low);
  _mm256_maskstore_epi32(p + 8, mask.high, v.high);
}
