// SPDX-License-Identifier: Apache-2.0
// An instruction set and its kernels. Each set has a file in instruction_sets/ with its table and, in the first lines,
// its compiler flags (read by CMakeLists.txt); a new set is a new file and a line in list.cc.
#pragma once

#include "cpu.h"
#include "types.h"

namespace sd {

// Computes one tile: at most max_tokens rows of activations, all columns of the tile's groups.
using Multiply = void (*)(const Packed &, const Tile &, int32_t tokens, const Epilogue &);

// A kernel for one layout and one type of activations.
struct LayoutKernel {
  const Layout *layout;
  QuantizedType type;
  double cost;         // time of a multiply-add slot / that of the set's dense kernel
  int32_t max_tokens;  // rows of a tile
  Multiply multiply;
  PackRules rules{};
  // Output columns whose packed weights stay in L2 while all tiles of tokens use them; 0: computed from k.
  int32_t chunk_columns = 0;
  // Number of int32 in Tile::scratch: constant, per output column of the tile, and per k.
  int32_t scratch = 0, scratch_per_column = 0, scratch_per_k = 0;
};

struct InstructionSet {
  const char *name;
  uint32_t needs;        // Feature bits of the CPU
  size_t reduced_size;   // bytes of the reduced type: bfloat16 if the CPU multiplies it, else float
  QuantizedType type;    // type of quantized activations
  // Layouts of the set. The first is dense and can represent every matrix.
  const LayoutKernel *kernels;
  int32_t kernel_count;
  // The reference product of any layout and type, for forced layouts without a kernel in the set.
  Multiply multiply_reference;

  // Quantizes float or reduced rows [rows, k]. scale == 0: dynamic, a scale and zero point per row. A row with a NaN or
  // an infinity gets the scale NaN. token_shift: scale * (zero point, minus 128 for kS8).
  void (*quantize)(const void *x, bool reduced, int64_t x_stride, int64_t rows, int64_t k, float scale,
                   int32_t zero_point, uint8_t *y, int64_t y_stride, float *token_scale, float *token_shift);
  // y = LayerNorm(x), float rows without padding; x and y may be the same.
  void (*layer_norm)(const float *x, const Reordered &, int64_t rows, int64_t n, const LayerNorm &, float *y);

  // order.row = row x of a reordered matrix in the original order, plus the residual.
  void (*restore)(const float *x, const Reordered &order, int64_t n);
  // y = a b, from reduced values to float.
  void (*gate)(const void *a, const void *b, int64_t n, float *y);
  // Rotates each of `heads` heads of a row of reduced values: (a, b) becomes (a cos - b sin, b cos + a sin), where a
  // and b are the head's halves, and cos and sin have a value for each position in a head.
  void (*rotate)(void *row, int64_t heads, int64_t head_size, const float *cos, const float *sin);

  size_t (*attention_scratch)(int64_t keys, int64_t head_size);
  void (*attention)(const Attention &);
  // INT8 attention; null if the set has no instructions for it. quantize_heads writes rows of `heads` heads, the first
  // biased_heads of them as u8 around 128, the others as s8.
  void (*quantize_heads)(const void *x, int64_t x_stride, int64_t rows, int64_t heads, int64_t head_size,
                         int64_t biased_heads, uint8_t *y, int64_t y_stride, float *scales, int64_t scale_stride);
  size_t (*attention_int8_scratch)(int64_t keys, int64_t head_size);
  void (*attention_int8)(const AttentionInt8 &);
};

// All sets of this build, best first, ended by null.
extern const InstructionSet *const kInstructionSets[];

}  // namespace sd
