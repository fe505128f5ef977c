// SPDX-License-Identifier: Apache-2.0
// The dense kernel of AVX2, with and without VNNI. Included after epilogue.h.

template <int kTokens>
struct DenseTile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    for (int32_t g = tile.group_begin; g < tile.group_end; ++g)
      for (int r = 0; r < 4; ++r) sixteen(p, tile, e, g, r);
  }

  static void sixteen(const Packed &p, const Tile &tile, const Epilogue &e, int32_t g, int r) {
    const uint8_t *data = p.data + p.first[g] * 256 + r * 64;
    const uint8_t *x = tile.x;
    I32 out[kTokens];
#ifdef SD_AVX_VNNI
    __m256i acc[kTokens][2] = {};
    for (int64_t n = p.first[g + 1] - p.first[g]; n; --n, data += 256, x += 4) {
      const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i *>(data));
      const __m256i w1 = _mm256_load_si256(reinterpret_cast<const __m256i *>(data + 32));
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        int32_t quad;
        __builtin_memcpy(&quad, x + t * tile.x_stride, 4);
        const __m256i q = _mm256_set1_epi32(quad);
        asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[t][0]) : "x"(q), "x"(w0));
        asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc[t][1]) : "x"(q), "x"(w1));
      }
    }
    for (int t = 0; t < kTokens; ++t) __builtin_memcpy(&out[t], acc[t], 64);
#else
    // vpmaddubsw would saturate (255 * 127 * 2 > 32767), so both sides are widened to 16 bits first.
    __m256i acc[kTokens][4] = {};
    for (int64_t n = p.first[g + 1] - p.first[g]; n; --n, data += 256, x += 4) {
      __m256i w[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        w[i] = _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i *>(data + i * 16)));
#pragma GCC unroll 2
      for (int t = 0; t < kTokens; ++t) {
        int32_t quad;
        __builtin_memcpy(&quad, x + t * tile.x_stride, 4);
        const __m256i q = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(quad)));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) acc[t][i] = _mm256_add_epi32(acc[t][i], _mm256_madd_epi16(q, w[i]));
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m256i low = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[t][0], acc[t][1]), 0xd8);
      const __m256i high = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[t][2], acc[t][3]), 0xd8);
      __builtin_memcpy(&out[t], &low, 32);
      __builtin_memcpy(reinterpret_cast<char *>(&out[t]) + 32, &high, 32);
    }
#endif
    finish<kTokens>(out, e, static_cast<int64_t>(g) * 64 + r * 16, tile.token);
  }
};

template <template <int> class TileOf, int kMax>
static void multiply_tile(const Packed &p, const Tile &tile, int32_t tokens, const Epilogue &e) {
  if constexpr (kMax > 0) {
    if (tokens == kMax)
      TileOf<kMax>::run(p, tile, e);
    else
      multiply_tile<TileOf, kMax - 1>(p, tile, tokens, e);
  }
}
