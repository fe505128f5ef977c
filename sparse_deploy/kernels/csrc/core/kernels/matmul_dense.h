// SPDX-License-Identifier: Apache-2.0
// The dense product of AVX-VNNI: 16 of the layout's 64 rows at a time. Included after dot.h.

template <int kTokens>
struct DenseTile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    for (int64_t g = tile.group_begin; g < tile.group_end; ++g)
      for (int64_t r = 0; r < 64; r += 16) sixteen(p, tile, e, g, r);
  }

  static void sixteen(const Packed &p, const Tile &tile, const Epilogue &e, int64_t g, int64_t r) {
    const uint8_t *data = p.data + p.first[g] * 256 + r * 4, *x = tile.x;
    Bytes sums[kTokens * 2] = {};
    for (int64_t n = p.first[g + 1] - p.first[g]; n; --n, data += 256, x += 4) {
      const Bytes low = load_bytes(data), high = load_bytes(data + 32);
      Bytes four;
      add_all_products<0>(
          sums,
          [&](int i) SD_LAMBDA {
            if (i % 2 == 0) four = splat_four(x + i / 2 * tile.x_stride);
            return four;
          },
          [&](int i) SD_LAMBDA { return i % 2 ? high : low; });
    }
    I32 out[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) __builtin_memcpy(&out[t], sums + t * 2, sizeof(I32));
    finish<kTokens>(out, e, g * 64 + r, tile.token);
  }
};
