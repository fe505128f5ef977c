// SPDX-License-Identifier: Apache-2.0
// Every layout in plain C++: the reference of the others, and what runs where an instruction set has no kernel of its
// own for a layout (only when it is forced: the cost model prices these out). Included after epilogue.h.

template <Layout kLayout>
static void multiply_generic(const Packed &p, const Tile &tile, int32_t tokens, const Epilogue &e) {
  for (int32_t g = tile.group_begin; g < tile.group_end; ++g) {
    for (int32_t t = 0; t < tokens; ++t) {
      const uint8_t *x = tile.x + t * tile.x_stride;
      int32_t acc[64] = {};
      int64_t step = p.first[g];
      const int64_t end = p.first[g + 1];
      if (kLayout == kDense) {
        for (const uint8_t *q = x; step < end; ++step, q += 4)
          for (int i = 0; i < 256; ++i) acc[i / 4] += static_cast<int8_t>(p.data[step * 256 + i]) * q[i % 4];
      } else if (kLayout == kHalf) {
        for (int64_t s = 0; step < end; ++step, ++s) {
          const uint8_t *window = p.data + step / 8 * 576;
          for (int i = 0; i < 64; ++i)
            acc[i / 4] += static_cast<int8_t>(window[64 + step % 8 * 64 + i]) *
                          x[s * 8 + i % 4 * 2 + (window[i] >> step % 8 & 1)];
        }
      } else if (kLayout == kBlock4x1) {
        for (; step < end; ++step)
          for (int i = 0; i < 64; ++i) {
            const int lane = i / 4, quad = 4 * (lane % 4) + lane / 4;
            for (int r = 0; r < 4; ++r)
              acc[quad * 4 + r] += static_cast<int8_t>(p.data[step * 320 + 64 + r * 64 + i]) *
                                   x[p.meta[step] + p.data[step * 320 + i]];
          }
      } else if (kLayout == kUnstructured) {
        for (; step < end; ++step)
          for (int i = 0; i < 64; ++i)
            acc[i / 4] += static_cast<int8_t>(p.data[step * 128 + 64 + i]) *
                          x[p.meta[step / p.windows] + p.data[step * 128 + i]];
      } else {
        step = p.first[static_cast<int64_t>(g) * p.windows];
        for (int32_t w = 0; w < p.windows; ++w)
          for (int r = 0; r < 64; ++r) {
            const int run = p.meta[(static_cast<int64_t>(g) * p.windows + w) * 64 + r];
            for (int n = run >> 8; n; --n, ++step)
              for (int i = 0; i < 8; ++i)
                acc[run & 63] += static_cast<int8_t>(p.data[step * 8 + i]) *
                                 x[(w * kPanelUnits + p.index[step * 2 + i / 4]) * 4 + i % 4];
          }
      }
      for (int c = 0; c < p.group_rows; c += 16) {
        I32 out[1];
        for (int i = 0; i < 16; ++i) out[0][i] = acc[c + i];
        finish<1>(out, e, static_cast<int64_t>(g) * p.group_rows + c, tile.token + t);
      }
    }
  }
}
