// SPDX-License-Identifier: Apache-2.0
// The dense product of AVX2 without an 8-bit dot product. Included after dot.h.
//
// Steps whose pairs may share a lane use vpmaddubsw; in the others both operands are widened to 16 bits. With random
// normal weights 43 % of the steps are widened at K = 768.

template <int kTokens>
struct DenseSplitTile {
  static constexpr int kStep = 64;

  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    const int64_t wide_stride = round_up(p.k, 16) + 32;
    int16_t *wide = reinterpret_cast<int16_t *>(tile.scratch);
    bool widened = false;
    Prefetcher prefetcher(p, tile);
    for (int64_t g = tile.group_begin; g < tile.group_end; ++g) {
      const int64_t *first = p.first + g * 2;
      if (first[1] < first[2] && !widened) {
        for (int t = 0; t < kTokens; ++t) widen(tile.x + t * tile.x_stride, p.k, wide + t * wide_stride);
        widened = true;
      }
      Bytes sums[kTokens * 2] = {};
      add_pairs(p, first[0], first[1], tile, prefetcher, sums);
      add_wide(p, first[1], first[2], wide, wide_stride, prefetcher, sums);
      I32 out[kTokens];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) __builtin_memcpy(&out[t], sums + t * 2, sizeof(I32));
      finish<kTokens>(out, e, g * 16, tile.token);
    }
  }

  SD_INLINE void add_pairs(const Packed &p, int64_t step, int64_t end, const Tile &tile, Prefetcher &prefetcher,
                           Bytes (&sums)[kTokens * 2]) {
    for (const uint8_t *data = p.data + step * kStep; step < end; ++step, data += kStep) {
      const uint8_t *x = tile.x + p.meta[step];
      const Bytes low = load_bytes(data), high = load_bytes(data + 32);
      prefetcher.step();
      Bytes four;
      add_all_products<0>(
          sums,
          [&](int i) SD_LAMBDA {
            if (i % 2 == 0) four = splat_four(x + i / 2 * tile.x_stride);
            return four;
          },
          [&](int i) SD_LAMBDA { return i % 2 ? high : low; });
    }
  }

  SD_INLINE void add_wide(const Packed &p, int64_t step, int64_t end, const int16_t *wide, int64_t stride,
                          Prefetcher &prefetcher, Bytes (&sums)[kTokens * 2]) {
    for (const uint8_t *data = p.data + step * kStep; step < end; ++step, data += kStep) {
      const int16_t *x = wide + p.meta[step];
      const Bytes low = load_bytes(data), high = load_bytes(data + 32);
      prefetcher.step();
      // The first and third of every four weights, then the second and fourth.
      add_words(x, stride, _mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8),
                _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8), sums);
      add_words(x + 2, stride, _mm256_srai_epi16(low, 8), _mm256_srai_epi16(high, 8), sums);
    }
  }

  SD_INLINE void add_words(const int16_t *x, int64_t stride, Bytes low, Bytes high, Bytes (&sums)[kTokens * 2]) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const Bytes two = splat_four(reinterpret_cast<const uint8_t *>(x + t * stride));
      add_sums(sums[t * 2], multiply_words(two, low));
      add_sums(sums[t * 2 + 1], multiply_words(two, high));
    }
  }

  // Widens to 16 bits, every four in the order 0, 2, 1, 3.
  static void widen(const uint8_t *x, int64_t k, int16_t *wide) {
    const __m256i order = _mm256_setr_epi8(0, -1, 2, -1, 1, -1, 3, -1, 4, -1, 6, -1, 5, -1, 7, -1, 0, -1, 2, -1, 1, -1, 3,
                                           -1, 4, -1, 6, -1, 5, -1, 7, -1);
    for (int64_t i = 0; i < k; i += 16) {
      const __m256i bytes = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x + i)));
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(wide + i),
                          _mm256_shuffle_epi8(_mm256_permute4x64_epi64(bytes, 0x50), order));
    }
  }
};
