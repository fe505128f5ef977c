// SPDX-License-Identifier: Apache-2.0
// Shared types of the packing code, the kernels of every instruction set and the drivers. Plain data only: the kernels'
// translation units are compiled with instructions that this CPU may lack, so nothing here may instantiate code.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "layouts/layout.h"

namespace sd {

// A packed weight. Its layout (layouts/*.cc) defines the content of the arrays.
struct Packed {
  const Layout *layout;
  int64_t n, k;
  int32_t groups;          // of layout->group_rows output channels
  int32_t parts;           // entries of `first` per group
  int32_t window_steps;    // steps of a window, for layouts with a constant number
  int64_t steps;           // total number of steps
  const uint8_t *data;     // 64-byte aligned
  const uint8_t *index;
  const uint16_t *meta;
  const int64_t *first;    // [groups * parts + 1]: first step
};

enum Output : int32_t { kInt32 = 0, kFloat, kReduced };

// The epilogue of an accumulator tile in registers:
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
  void *out;                   // int32, float, or the instruction set's reduced type
  int64_t out_stride;          // in elements
};

struct Tile {
  int32_t group_begin, group_end;
  const uint8_t *x;                // first row
  int64_t x_stride;                // bytes; rows are readable up to the next multiple of 128 past k
  int64_t token;                   // token of the first row, for the epilogue
  const uint8_t *prefetch;         // packed bytes that are needed next, or null
  int32_t prefetch_lines;          // cache lines to prefetch per step
  int32_t *scratch;                // size from LayoutKernel; 64-byte aligned
};

struct Attention {
  const void *q, *k, *v;       // reduced type; rows of one sequence
  int64_t stride;              // elements between rows
  int64_t keys;                // rows of k and v without padding
  const float *penalty;        // [keys, padded to 64]: 0, or a large negative number; beyond keys it is negative
  int64_t query_begin, query_end;
  int64_t head_size;
  float scale;                 // 1 / sqrt(head_size)
  void *out;                   // reduced type: row of query_begin
  int64_t out_stride;
  void *scratch;               // attention_scratch(keys, head_size) bytes, 64-byte aligned
  const float *bias;           // [queries, keys] from query 0 on: added to the scaled products; or null
  int64_t bias_stride;
  int64_t first_key;           // token of row 0 of k and v; row 0 of q is token 0
  int64_t window;              // keys at larger distance count as padding; 0: no limit
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
  void *out;                   // reduced type: row of query_begin
  int64_t out_stride;
  void *scratch;               // attention_int8_scratch(keys, head_size) bytes, 64-byte aligned
  const float *bias;           // this and the next three members as in Attention
  int64_t bias_stride;
  int64_t first_key;
  int64_t window;
  float largest_v_scale;       // over all keys of the sequence without padding; read if there is a window
};

struct LayerNorm {
  const float *gamma, *beta;
  float epsilon;
};

// Rows with reordered columns and without residual: column c is x[position[c]] + residual[c].
struct Reordered {
  const int32_t *position;  // null: not reordered
  const float *residual;
  int64_t residual_stride;
  float *row;               // memory for one row
};

// Coefficients of a GELU: three tables of 16 (see rowwise.h).
struct GeluTable {
  alignas(64) float c0[16], c1[16], c2[16];
};
extern const GeluTable *const kGelu;      // erf
extern const GeluTable *const kGeluTanh;

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace sd
