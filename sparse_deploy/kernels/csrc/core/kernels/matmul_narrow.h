// SPDX-License-Identifier: Apache-2.0
// Products with the layouts whose windows fit a byte shuffle inside 16 bytes: the window is broadcast to all 128-bit
// parts of a register, and the shuffle selects four activations for each row. Included after dot.h.

template <int kTokens>
struct UnstructuredNarrowTile {
  static constexpr int kVector = static_cast<int>(sizeof(Bytes)), kStep = 2 * kVector, kParts = 16 / kLanes;

  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    Prefetcher prefetcher(p, tile);
    for (int64_t g = tile.group_begin; g < tile.group_end; ++g) {
      I32 out[kTokens];
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        Bytes sums[kTokens] = {};
        add_part(p, g * kParts + part, tile, prefetcher, sums);
#pragma GCC unroll 16
        for (int t = 0; t < kTokens; ++t)
          __builtin_memcpy(reinterpret_cast<char *>(&out[t]) + part * kVector, &sums[t], sizeof(Bytes));
      }
      finish<kTokens>(out, e, g * 16, tile.token);
    }
  }

  SD_INLINE void add_part(const Packed &p, int64_t part, const Tile &tile, Prefetcher &prefetcher,
                          Bytes (&sums)[kTokens]) {
    const uint8_t *data = p.data + p.first[part] * kStep;
    const uint16_t *begin = p.meta + p.first[part];
    for (int64_t n = p.first[part + 1] - p.first[part]; n; --n, data += kStep) {
      const uint8_t *x = tile.x + *begin++;
      const Bytes positions = load_bytes(data), weights = load_bytes(data + kVector);
      prefetcher.step();
      add_all_products<1>(
          sums, [&](int t) SD_LAMBDA { return shuffle(splat_sixteen(x + t * tile.x_stride), positions); },
          [&](int) SD_LAMBDA { return weights; });
    }
  }
};

// One shuffle serves the four rows of a block.
template <int kTokens>
struct Block4x1NarrowTile {
  static constexpr int kVector = static_cast<int>(sizeof(Bytes)), kStep = 5 * kVector, kRows = 4 * kLanes;

  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    Prefetcher prefetcher(p, tile);
    for (int64_t g = tile.group_begin; g < tile.group_end; ++g) {
      const uint8_t *data = p.data + p.first[g] * kStep;
      const uint16_t *begin = p.meta + p.first[g];
      Bytes sums[kTokens * 4] = {};
      for (int64_t n = p.first[g + 1] - p.first[g]; n; --n, data += kStep) {
        const uint8_t *x = tile.x + *begin++;
        const Bytes positions = load_bytes(data);
        const Bytes *weights = reinterpret_cast<const Bytes *>(data + kVector);
        prefetcher.step();
        Bytes picked;
        add_all_products<0>(
            sums,
            [&](int i) SD_LAMBDA {
              if (i % 4 == 0) picked = shuffle(splat_sixteen(x + i / 4 * tile.x_stride), positions);
              return picked;
            },
            [&](int i) SD_LAMBDA { return weights + i % 4; });
      }
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) neighbours(sums + t * 4);
#pragma GCC unroll 4
      for (int c = 0; c < kRows; c += 16) {
        I32 out[kTokens];
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 4
          for (int i = 0; i < 16 / kLanes; ++i)  // one at a time: GCC would keep an array of sums in memory
            __builtin_memcpy(reinterpret_cast<char *>(&out[t]) + i * kVector, sums + t * 4 + c / kLanes + i, sizeof(Bytes));
        finish<kTokens>(out, e, g * kRows + c, tile.token);
      }
    }
  }

  // sums[r] has row r of all blocks: reorders them to neighbouring outputs, which the layout's lane order simplifies.
  SD_INLINE void neighbours(Bytes *sums) {
    const Bytes a = unpack_low_32(sums[0], sums[1]), b = unpack_high_32(sums[0], sums[1]);
    const Bytes c = unpack_low_32(sums[2], sums[3]), d = unpack_high_32(sums[2], sums[3]);
    sums[0] = unpack_low_64(a, c);
    sums[1] = unpack_high_64(a, c);
    sums[2] = unpack_low_64(b, d);
    sums[3] = unpack_high_64(b, d);
  }
};
