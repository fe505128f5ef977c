// SPDX-License-Identifier: Apache-2.0
// Products with 1(out)x4(in) blocks: tokens in lanes, up to 64 of them, whose activations are transposed into a panel.
// Included after dot.h and transpose.h.

#ifdef __AVX512F__
// The sum over one block of k for the rows of a group: kVectors of 16 tokens. Two units at a time are added to two sets
// of accumulators, which hides the 4 cycles of vpdpbusd; one load reads the weights of both (Zen 4 does one load per
// cycle, and the tokens take four).
template <int kVectors>
static void sum_block_1x4(const uint16_t *runs, const uint8_t *data, const uint8_t *index, const int32_t *panel,
                          bool first, int32_t *sums) {
  for (int r = 0; r < 64; ++r) {
    const int run = runs[r];
    int32_t *sum = sums + (run & 63) * 64;
    I32 a[kVectors], b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      a[j] = first ? I32{} : *reinterpret_cast<const I32 *>(sum + j * 16);
      b[j] = I32{};
    }
    for (int n = run >> 8; n; --n, data += 8, index += 2) {
      int64_t pair;
      __builtin_memcpy(&pair, data, 8);
      const __m512i weights = _mm512_set1_epi64(pair);
      const __m512i w0 = _mm512_shuffle_epi32(weights, _MM_PERM_AAAA), w1 = _mm512_shuffle_epi32(weights, _MM_PERM_BBBB);
      const int32_t *x0 = panel + static_cast<int64_t>(index[0]) * 64, *x1 = panel + static_cast<int64_t>(index[1]) * 64;
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) dot_u8(a[j], _mm512_load_si512(x0 + j * 16), w0);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) dot_u8(b[j], _mm512_load_si512(x1 + j * 16), w1);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) *reinterpret_cast<I32 *>(sum + j * 16) = a[j] + b[j];
  }
}
#else
// The sum over one part of k for the rows of a group: kVectors of 16 tokens.
template <int kVectors>
static void sum_block_1x4(const uint16_t *runs, const uint8_t *data, const uint8_t *index, const int32_t *panel,
                          bool first, int32_t *sums) {
  constexpr int kCount = kVectors * 16 / kLanes;
  for (int r = 0; r < 64; ++r) {
    const int run = runs[r];
    Bytes *sum = reinterpret_cast<Bytes *>(sums + (run & 63) * 64), total[kCount];
#pragma GCC unroll 16
    for (int j = 0; j < kCount; ++j) total[j] = first ? Bytes{} : sum[j];
    for (int n = run >> 8; n; --n, data += 8, index += 2) {
      const Bytes w0 = splat_four(data), w1 = splat_four(data + 4);
      const Bytes *x0 = reinterpret_cast<const Bytes *>(panel + static_cast<int64_t>(index[0]) * 64);
      const Bytes *x1 = reinterpret_cast<const Bytes *>(panel + static_cast<int64_t>(index[1]) * 64);
#ifdef SD_PAIRS_OF_PRODUCTS
      // The layout ensures that four products fit a 16-bit lane, so two units need only one widening.
      const Bytes ones = _mm256_set1_epi16(1);
      Bytes lanes[kCount];
#pragma GCC unroll 16
      for (int j = 0; j < kCount + 2; ++j) {
        if (j < kCount) {
          lanes[j] = multiply_pairs(x0[j], w0);
          lanes[j] = _mm256_add_epi16(lanes[j], multiply_pairs(x1[j], w1));
        }
        if (j >= 1 && j - 1 < kCount) lanes[j - 1] = multiply_words(lanes[j - 1], ones);
        if (j >= 2) add_sums(total[j - 2], lanes[j - 2]);
      }
#else
#pragma GCC unroll 16
      for (int j = 0; j < kCount; ++j) add_products(total[j], x0[j], w0);
#pragma GCC unroll 16
      for (int j = 0; j < kCount; ++j) add_products(total[j], x1[j], w1);
#endif
    }
#pragma GCC unroll 16
    for (int j = 0; j < kCount; ++j) sum[j] = total[j];
  }
}
#endif

static void multiply_block_1x4(const Packed &p, const Tile &tile, int32_t tokens, const Epilogue &e) {
  int32_t *panel = tile.scratch, *sums = tile.scratch + kPanelDwords;
  const int64_t units = round_up((p.k + 3) / 4, 16);
  const int vectors = (tokens + 15) / 16;
  for (int64_t block = 0; block < p.parts; ++block) {
    const int64_t left = units - block * kPanelUnits;
    for (int j = 0; j < vectors; ++j)
      transpose16(reinterpret_cast<const int32_t *>(tile.x + j * 16 * tile.x_stride) + block * kPanelUnits,
                  tile.x_stride / 4, tokens - j * 16, left < kPanelUnits ? left : kPanelUnits, panel + j * 16, 64);
    for (int32_t g = tile.group_begin; g < tile.group_end; ++g) {
      const int64_t at = static_cast<int64_t>(g) * p.parts + block;
      const uint16_t *runs = p.meta + at * 64;
      const uint8_t *data = p.data + p.first[at] * 8, *index = p.index + p.first[at] * 2;
      int32_t *sum = sums + static_cast<int64_t>(g - tile.group_begin) * 64 * 64;
      switch (vectors) {
        case 4: sum_block_1x4<4>(runs, data, index, panel, block == 0, sum); break;
        case 3: sum_block_1x4<3>(runs, data, index, panel, block == 0, sum); break;
        case 2: sum_block_1x4<2>(runs, data, index, panel, block == 0, sum); break;
        default: sum_block_1x4<1>(runs, data, index, panel, block == 0, sum); break;
      }
      if (block + 1 < p.parts) continue;
      for (int c = 0; c < 64; c += 16) {
        for (int j = 0; j < vectors; ++j) {
          I32 out[16];
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) out[i] = *reinterpret_cast<const I32 *>(sum + (c + i) * 64 + j * 16);
          transpose(out);
          const int64_t column = static_cast<int64_t>(g) * 64 + c, token = tile.token + j * 16;
          if (tokens - j * 16 >= 16) {
            finish<16>(out, e, column, token);
            continue;
          }
          alignas(64) I32 rest[16];
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) rest[i] = out[i];
          for (int t = 0; t < tokens - j * 16; ++t) {
            const I32 one[1] = {rest[t]};
            finish<1>(one, e, column, token + t);
          }
        }
      }
    }
  }
}
