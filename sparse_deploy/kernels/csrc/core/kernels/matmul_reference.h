// SPDX-License-Identifier: Apache-2.0
// The reference product of every layout, for a forced layout without a kernel in the instruction set. Included after
// epilogue.h.

template <QuantizedType kType>
static void multiply_reference(const Packed &p, const Tile &tile, int32_t tokens, const Epilogue &e) {
  const int64_t rows = p.layout->group_rows;
  for (int64_t g = tile.group_begin; g < tile.group_end; ++g)
    for (int32_t t = 0; t < tokens; ++t) {
      int32_t sums[64] = {};
      p.layout->multiply(p, g, tile.x + t * tile.x_stride, kType, sums);
      for (int64_t c = 0; c < rows; c += 16) {
        I32 out[1];
        __builtin_memcpy(out, sums + c, sizeof out);
        finish<1>(out, e, g * rows + c, tile.token + t);
      }
    }
}
