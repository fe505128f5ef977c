// SPDX-License-Identifier: Apache-2.0
// What the packing code, the kernels of every instruction set and the drivers agree on. Plain data only: the kernels'
// translation units are compiled with instructions that this CPU may lack, so nothing here may instantiate code.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace sd {

// Layouts of a packed weight. Rows are output channels, in lanes of 16; activations stay row-major u8, so nothing is
// ever transposed. `w` is int8, `x` a row of activations.
enum Layout : int32_t {
  // 64 rows a group. Stream [k/4][4][16 rows][4 k].
  kDense = 0,
  // 16 rows a group. A window of 64 k slides over the row; `meta` holds where each one starts, and each has `windows`
  // steps (2 or 3, so that no branch depends on the data). A step is 64 k positions inside the window (u8) and 64
  // weights: 4 nonzeros for each of the 16 rows.
  kUnstructured,
  // 1 of every 2 kept, 16 rows a group. Per 64 k: 64 bytes of bits (bit `step`: which of the two), then 8 x 64 weights.
  kHalf,
  // 4(out)x1(in) blocks, 64 rows a group. A step: 64 k positions, shared by the 4 rows of a block, and 4 x 64 weights
  // (row r of the 16 blocks); `meta` holds where each step's window starts. Lane j is block 4*(j%4) + j/4, which makes
  // the way back to 64 neighbouring outputs 8 unpacks.
  kBlock4x1,
  // 1(out)x4(in) blocks, 64 rows a group, with tokens in lanes instead of rows: blocks of 384 k are transposed into a
  // panel [96 units of 4 k][64 tokens][4] that fits L1. Per group and block of k the rows come sorted by their number of
  // pairs of units (`meta`: row | pairs << 8, 64 entries), so that the loop's length is predictable; a step is a pair:
  // 2 x 4 weights in `data`, 2 unit positions in `index`. `first` has an entry per group and block of k.
  kBlock1x4,
  kLayouts
};

constexpr int64_t kPanelUnits = 96, kPanelDwords = kPanelUnits * 64;

struct Packed {
  Layout layout;
  int64_t n, k;
  int32_t group_rows;      // 16 or 64
  int32_t groups;
  int32_t windows;         // kUnstructured: steps per window, kBlock1x4: blocks of k per group
  int64_t steps;           // in all
  const uint8_t *data;     // 64-byte aligned
  const uint8_t *index;    // kBlock1x4
  const uint16_t *meta;    // see the layouts
  const int64_t *first;    // [groups + 1]: first step of a group (kBlock1x4: of a group and block of k)
};

enum Output : int32_t { kInt32 = 0, kFloat, kCompact };

// What happens to an accumulator tile before it leaves the registers:
//   y = act(acc * (scale * token_scale) + bias - sum * token_shift) + residual
struct Epilogue {
  Output output;
  int32_t activation;          // sd_activation without tanh
  int64_t n;                   // valid columns
  const float *scale;          // [n], padded to 64, as are bias and sum
  const float *bias;
  const float *sum;            // scale * (sum of the row's weights)
  const float *token_scale;    // [m]
  const float *token_shift;    // [m]: token_scale * zero_point
  const float *residual;       // or null
  int64_t residual_stride;
  void *out;                   // int32, float, or the instruction set's compact type
  int64_t out_stride;          // in elements
};

struct Tile {
  int32_t group_begin, group_end;  // of group_rows
  const uint8_t *x;                // first row
  int64_t x_stride;                // bytes; rows are readable up to the next multiple of 128 past k
  int64_t token;                   // of the first row, for the epilogue
  const uint8_t *prefetch;         // packed bytes that will be wanted next, or null
  int32_t prefetch_lines;          // cache lines of them per step
  int32_t *scratch;                // kBlock1x4: kPanelDwords, then 64 int32 per output row; 64-byte aligned
};

struct Attention {
  const void *q, *k, *v;       // compact type; rows of one sequence
  int64_t stride;              // elements between rows
  int64_t keys;                // rows of k and v that count
  const float *penalty;        // [keys, padded to 64]: 0, or a large negative number; beyond keys it is negative
  int64_t query_begin, query_end;
  int64_t head_size;
  float scale;                 // 1 / sqrt(head_size)
  void *out;                   // compact type: row of query_begin
  int64_t out_stride;
  void *scratch;               // attention_scratch(keys, head_size) bytes, 64-byte aligned
};

// The same with q, k and v in 8 bits, a scale per token and head. head_size is a multiple of 16.
struct AttentionInt8 {
  const uint8_t *q;            // u8 around 128
  const uint8_t *k, *v;        // s8
  int64_t stride;              // bytes between rows, a multiple of 4
  const float *q_scale, *k_scale, *v_scale;  // of row 0
  int64_t scale_stride;
  int64_t keys;
  const float *penalty;
  int64_t query_begin, query_end;
  int64_t head_size;
  float scale;
  void *out;                   // compact type: row of query_begin
  int64_t out_stride;
  void *scratch;               // attention_int8_scratch(keys, head_size) bytes, 64-byte aligned
};

struct LayerNorm {
  const float *gamma, *beta;
  float epsilon;
};

// Rows whose columns come in another order and without their residual: column c is x[position[c]] + residual[c].
struct Reordered {
  const int32_t *position;  // null: as they are
  const float *residual;
  int64_t residual_stride;
  float *row;               // room for one row
};

// Coefficients of a GELU: three tables of 16 (see rowwise.h).
struct GeluTable {
  alignas(64) float c0[16], c1[16], c2[16];
};
extern const GeluTable *const kGelu;      // erf
extern const GeluTable *const kGeluTanh;

// One instruction set: everything that depends on it.
struct Kernels {
  const char *name;
  size_t compact_size;                 // bytes of the type of q, k, v, attention output and FFN activations
  int32_t max_tokens[kLayouts];        // rows of a tile
  double cost[kLayouts];               // time per multiply-add slot / that of kDense
  // One tile: max_tokens[layout] rows at most, all columns of its groups.
  void (*matmul[kLayouts])(const Packed &, const Tile &, int32_t tokens, const Epilogue &);
  // u8 rows from float (compact == 0) or compact rows. scale == 0: dynamic.
  void (*quantize)(const void *x, int compact, int64_t x_stride, int64_t rows, int64_t k, float scale,
                   int32_t zero_point, uint8_t *y, int64_t y_stride, float *token_scale, float *token_shift);
  // y = LayerNorm(x), float rows without padding; x and y may be the same.
  void (*layer_norm)(const float *x, const Reordered &, int64_t rows, int64_t n, const LayerNorm &, float *y);
  size_t (*attention_scratch)(int64_t keys, int64_t head_size);
  void (*attention)(const Attention &);
  // INT8 attention, where there are instructions for it; null elsewhere. quantize_heads makes rows of `heads` heads,
  // the first biased_heads of them u8 around 128, the others s8.
  void (*quantize_heads)(const void *x, int64_t x_stride, int64_t rows, int64_t heads, int64_t head_size,
                         int64_t biased_heads, uint8_t *y, int64_t y_stride, float *scales, int64_t scale_stride);
  size_t (*attention_int8_scratch)(int64_t keys, int64_t head_size);
  void (*attention_int8)(const AttentionInt8 &);
};

extern const Kernels kPortable, kAvx2, kAvx2Vnni, kAvx512Vnni, kAvx512Vbmi, kAvx512Bf16;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace sd
