// SPDX-License-Identifier: Apache-2.0
// The kernels of AVX-512 VNNI, and of VBMI where SD_VBMI is defined. Included after epilogue.h.
//
// A vpdpbusd with its input takes 1.0 cycles on Zen 4, and 1.33 with a vpermb, the limit of the three 512-bit pipes
// (benchmarks/notes.md). GCC 12 keeps accumulators of _mm512_dpbusd_epi32 in memory inside templates, which is much
// slower; the asm below prevents this.

SD_INLINE void dot_u8(I32 &acc, __m512i x, __m512i w) {
  __m512i c = __m512i(acc);
  asm("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(x), "v"(w));
  acc = I32(c);
}

template <int kTokens>
struct DenseTile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    for (int32_t g = tile.group_begin; g < tile.group_end; ++g) {
      const uint8_t *data = p.data + p.first[g] * 256;
      I32 acc[4][kTokens];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) acc[r][t] = I32{};
      const uint8_t *x = tile.x;
      for (int64_t n = p.first[g + 1] - p.first[g]; n; --n, data += 256, x += 4) {
        const __m512i w0 = _mm512_load_si512(data), w1 = _mm512_load_si512(data + 64);
        const __m512i w2 = _mm512_load_si512(data + 128), w3 = _mm512_load_si512(data + 192);
        _mm_prefetch(reinterpret_cast<const char *>(data + 2048), _MM_HINT_T0);
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) {
          int32_t quad;
          __builtin_memcpy(&quad, x + t * tile.x_stride, 4);
          const __m512i q = _mm512_set1_epi32(quad);
          dot_u8(acc[0][t], q, w0);
          dot_u8(acc[1][t], q, w1);
          dot_u8(acc[2][t], q, w2);
          dot_u8(acc[3][t], q, w3);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) finish<kTokens>(acc[r], e, static_cast<int64_t>(g) * 64 + r * 16, tile.token);
    }
  }
};

#ifdef SD_VBMI
template <int kTokens>
struct UnstructuredTile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    if (p.window_steps == 2)
      windows<2>(p, tile, e);
    else
      windows<3>(p, tile, e);
  }

  template <int kSteps>
  SD_INLINE void windows(const Packed &p, const Tile &tile, const Epilogue &e) {
    Prefetcher prefetcher(p, tile);
    for (int32_t g = tile.group_begin; g < tile.group_end; ++g) {
      const uint8_t *data = p.data + p.first[g] * 128;
      const uint16_t *begin = p.meta + p.first[g] / kSteps;
      I32 acc[kTokens];
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) acc[t] = I32{};
      for (int64_t n = (p.first[g + 1] - p.first[g]) / kSteps; n; --n) {
        const uint8_t *x = tile.x + *begin++;
        __m512i window[kTokens];
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) window[t] = _mm512_loadu_si512(x + t * tile.x_stride);
#pragma GCC unroll 3
        for (int s = 0; s < kSteps; ++s, data += 128) {
          const __m512i ix = _mm512_load_si512(data), weight = _mm512_load_si512(data + 64);
          prefetcher.step();
#pragma GCC unroll 12
          for (int t = 0; t < kTokens; ++t) dot_u8(acc[t], _mm512_permutexvar_epi8(ix, window[t]), weight);
        }
      }
      finish<kTokens>(acc, e, static_cast<int64_t>(g) * 16, tile.token);
    }
  }
};

// Positions of the first of each pair: 4 pairs a row in each of the 8 steps of a window.
struct PairPositions {
  alignas(64) uint8_t at[8][64];
  constexpr PairPositions() : at() {
    for (int step = 0; step < 8; ++step)
      for (int i = 0; i < 64; ++i) at[step][i] = static_cast<uint8_t>(step * 8 + i % 4 * 2);
  }
};
constexpr PairPositions kPairs;

template <int kTokens>
struct OneOfTwoTile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    const __m512i one = _mm512_set1_epi8(1);
    Prefetcher prefetcher(p, tile);
    for (int32_t g = tile.group_begin; g < tile.group_end; ++g) {
      const uint8_t *data = p.data + p.first[g] / 8 * 576;
      I32 acc[kTokens];
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) acc[t] = I32{};
      const uint8_t *x = tile.x;
      for (int64_t n = (p.first[g + 1] - p.first[g]) / 8; n; --n, x += 64, data += 576) {
        __m512i window[kTokens];
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) window[t] = _mm512_load_si512(x + t * tile.x_stride);
        // Bit `step` of a byte selects the kept weight of a pair. The positions of the next step are computed before
        // the permutations of this step, which would otherwise fill the scheduler while they wait: 1.44 cycles per pair
        // (benchmarks/notes.md; stored positions take 1.33 cycles, but 1.8 times the bytes).
        const __m512i bits = _mm512_load_si512(data);
        __m512i next = _mm512_ternarylogic_epi64(_mm512_load_si512(kPairs.at[0]), bits, one, 0xf8);
#pragma GCC unroll 8
        for (int step = 0; step < 8; ++step) {
          const __m512i ix = next, weight = _mm512_load_si512(data + 64 + step * 64);
          if (step < 7)
            next = _mm512_ternarylogic_epi64(_mm512_load_si512(kPairs.at[step + 1]),
                                             _mm512_srli_epi16(bits, static_cast<unsigned>(step + 1)), one, 0xf8);
          prefetcher.step();
#pragma GCC unroll 12
          for (int t = 0; t < kTokens; ++t) dot_u8(acc[t], _mm512_permutexvar_epi8(ix, window[t]), weight);
        }
      }
      finish<kTokens>(acc, e, static_cast<int64_t>(g) * 16, tile.token);
    }
  }
};

template <int kTokens>
struct Block4x1Tile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    Prefetcher prefetcher(p, tile);
    for (int32_t g = tile.group_begin; g < tile.group_end; ++g) {
      const uint8_t *data = p.data + p.first[g] * 320;
      const uint16_t *begin = p.meta + p.first[g];
      I32 acc[4][kTokens];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r)
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) acc[r][t] = I32{};
      for (int64_t n = p.first[g + 1] - p.first[g]; n; --n, data += 320) {
        const uint8_t *x = tile.x + *begin++;
        const __m512i ix = _mm512_load_si512(data);
        const __m512i w0 = _mm512_load_si512(data + 64), w1 = _mm512_load_si512(data + 128);
        const __m512i w2 = _mm512_load_si512(data + 192), w3 = _mm512_load_si512(data + 256);
        prefetcher.step();
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) {
          const __m512i picked = _mm512_permutexvar_epi8(ix, _mm512_loadu_si512(x + t * tile.x_stride));
          dot_u8(acc[0][t], picked, w0);
          dot_u8(acc[1][t], picked, w1);
          dot_u8(acc[2][t], picked, w2);
          dot_u8(acc[3][t], picked, w3);
        }
      }
#pragma GCC unroll 6
      for (int t = 0; t < kTokens; ++t) {
        const __m512i a = _mm512_unpacklo_epi32(__m512i(acc[0][t]), __m512i(acc[1][t]));
        const __m512i b = _mm512_unpackhi_epi32(__m512i(acc[0][t]), __m512i(acc[1][t]));
        const __m512i c = _mm512_unpacklo_epi32(__m512i(acc[2][t]), __m512i(acc[3][t]));
        const __m512i d = _mm512_unpackhi_epi32(__m512i(acc[2][t]), __m512i(acc[3][t]));
        acc[0][t] = I32(_mm512_unpacklo_epi64(a, c));
        acc[1][t] = I32(_mm512_unpackhi_epi64(a, c));
        acc[2][t] = I32(_mm512_unpacklo_epi64(b, d));
        acc[3][t] = I32(_mm512_unpackhi_epi64(b, d));
      }
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) finish<kTokens>(acc[r], e, static_cast<int64_t>(g) * 64 + r * 16, tile.token);
    }
  }
};
#endif
