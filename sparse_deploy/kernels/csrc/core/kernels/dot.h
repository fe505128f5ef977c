// SPDX-License-Identifier: Apache-2.0
// Registers of bytes, and sums of products of four activations by four weights in each of their 32-bit lanes, with the
// instructions of the set. Weights are s8; activations are u8, and s8 on Arm. Included after simd.h.

#ifdef __AVX512F__
typedef __m512i Bytes;
SD_INLINE Bytes load_bytes(const uint8_t *p) { return _mm512_load_si512(p); }
SD_INLINE Bytes splat_four(const uint8_t *p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
SD_INLINE Bytes splat_sixteen(const uint8_t *p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
SD_INLINE Bytes shuffle(Bytes x, Bytes positions) { return _mm512_shuffle_epi8(x, positions); }
SD_INLINE Bytes unpack_low_32(Bytes a, Bytes b) { return _mm512_unpacklo_epi32(a, b); }
SD_INLINE Bytes unpack_high_32(Bytes a, Bytes b) { return _mm512_unpackhi_epi32(a, b); }
SD_INLINE Bytes unpack_low_64(Bytes a, Bytes b) { return _mm512_unpacklo_epi64(a, b); }
SD_INLINE Bytes unpack_high_64(Bytes a, Bytes b) { return _mm512_unpackhi_epi64(a, b); }
#elif defined(__aarch64__)
typedef uint8x16_t Bytes;
SD_INLINE Bytes load_bytes(const uint8_t *p) { return vld1q_u8(p); }
SD_INLINE Bytes splat_four(const uint8_t *p) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return vreinterpretq_u8_u32(vdupq_n_u32(four));
}
SD_INLINE Bytes splat_sixteen(const uint8_t *p) { return vld1q_u8(p); }
SD_INLINE Bytes shuffle(Bytes x, Bytes positions) { return vqtbl1q_u8(x, positions); }
SD_INLINE Bytes unpack_low_32(Bytes a, Bytes b) {
  return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
SD_INLINE Bytes unpack_high_32(Bytes a, Bytes b) {
  return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
SD_INLINE Bytes unpack_low_64(Bytes a, Bytes b) {
  return vreinterpretq_u8_u64(vzip1q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}
SD_INLINE Bytes unpack_high_64(Bytes a, Bytes b) {
  return vreinterpretq_u8_u64(vzip2q_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)));
}
#else
typedef __m256i Bytes;
SD_INLINE Bytes load_bytes(const uint8_t *p) { return _mm256_load_si256(reinterpret_cast<const __m256i *>(p)); }
SD_INLINE Bytes splat_four(const uint8_t *p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
SD_INLINE Bytes splat_sixteen(const uint8_t *p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
SD_INLINE Bytes shuffle(Bytes x, Bytes positions) { return _mm256_shuffle_epi8(x, positions); }
SD_INLINE Bytes unpack_low_32(Bytes a, Bytes b) { return _mm256_unpacklo_epi32(a, b); }
SD_INLINE Bytes unpack_high_32(Bytes a, Bytes b) { return _mm256_unpackhi_epi32(a, b); }
SD_INLINE Bytes unpack_low_64(Bytes a, Bytes b) { return _mm256_unpacklo_epi64(a, b); }
SD_INLINE Bytes unpack_high_64(Bytes a, Bytes b) { return _mm256_unpackhi_epi64(a, b); }
#endif
constexpr int kLanes = sizeof(Bytes) / 4;

// GCC 12 keeps accumulators of the intrinsics in memory inside templates, which is much slower, and reorders the
// instructions; the asm below prevents both. Weights may be memory operands if there are not enough registers.
#if defined(__AVX512F__)
SD_INLINE void add_products(Bytes &sum, Bytes x, Bytes w) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w)); }
SD_INLINE void add_products(Bytes &sum, Bytes x, const Bytes *w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "m"(*w));
}
#elif defined(__aarch64__)
SD_INLINE void add_products(Bytes &sum, Bytes x, Bytes w) {
  asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));  // the intrinsic copies each sum twice
}
SD_INLINE void add_products(Bytes &sum, Bytes x, const Bytes *w) { add_products(sum, x, *w); }
#elif defined(SD_AVX_VNNI)
#ifdef SPARSE_DEPLOY_EVEX  // for tests on a CPU that has the instruction in AVX-512's encoding only
#define SD_VEX ""
#else
#define SD_VEX "%{vex%} "
#endif
SD_INLINE void add_products(Bytes &sum, Bytes x, Bytes w) {
  asm volatile(SD_VEX "vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
}
SD_INLINE void add_products(Bytes &sum, Bytes x, const Bytes *w) {
  asm volatile(SD_VEX "vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "m"(*w));
}
#else
#define SD_PAIRS_OF_PRODUCTS
SD_INLINE Bytes multiply_pairs(Bytes x, Bytes w) {
  Bytes pairs;
  asm volatile("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(x), "x"(w));
  return pairs;
}
SD_INLINE Bytes multiply_pairs(Bytes x, const Bytes *w) {
  Bytes pairs;
  asm volatile("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(x), "m"(*w));
  return pairs;
}
SD_INLINE Bytes multiply_words(Bytes x, Bytes w) {
  Bytes sums;
  asm volatile("vpmaddwd %2, %1, %0" : "=x"(sums) : "x"(x), "x"(w));
  return sums;
}
SD_INLINE void add_sums(Bytes &sum, Bytes sums) { asm volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(sums)); }
#endif

// sums[i] += x(i) . w(i) for kCount independent sums. Consecutive instructions use different sums, so that none waits
// for its predecessor: 8 % faster on Zen 4 (docs/architecture.md). With kAhead, x(i + 1) is computed before x(i) is
// used.
template <int kAhead, int kCount, typename X, typename W>
SD_INLINE void add_all_products(Bytes (&sums)[kCount], X x, W w) {
  Bytes values[kCount];
#ifdef SD_PAIRS_OF_PRODUCTS
  const Bytes ones = _mm256_set1_epi16(1);
#pragma GCC unroll 32
  for (int i = 0; i < kCount + kAhead + 2; ++i) {
    const int pairs = i - kAhead, fours = pairs - 1, add = fours - 1;
    if (i < kCount) values[i] = x(i);
    if (pairs >= 0 && pairs < kCount) values[pairs] = multiply_pairs(values[pairs], w(pairs));
    if (fours >= 0 && fours < kCount) values[fours] = multiply_words(values[fours], ones);
    if (add >= 0 && add < kCount) add_sums(sums[add], values[add]);
  }
#else
#pragma GCC unroll 32
  for (int i = 0; i < kCount + kAhead; ++i) {
    if (i < kCount) values[i] = x(i);
    if (i >= kAhead) add_products(sums[i - kAhead], values[i - kAhead], w(i - kAhead));
  }
#endif
}
