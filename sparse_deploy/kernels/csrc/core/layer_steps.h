// SPDX-License-Identifier: Apache-2.0
// The computation of an encoder layer as a list of steps, and the tensors between them. layer_schedule.cc distributes
// the steps over threads, by tokens or by columns.
#pragma once

#include <algorithm>
#include <cstdint>

#include "batch.h"
#include "layer.h"
#include "memory.h"
#include "profile.h"

namespace sd {

// One call of a layer, the same for all threads.
struct LayerCall {
  const EncoderLayer &layer;
  const Batch &batch;
  bool int8_attention;
  const float *x;         // [tokens, hidden]: rows without padding; the caller's array if it has no padding
  const float *residual;  // [output rows, hidden]: the rows of x that are in y
  float *y;               // [output rows, hidden]
  uint8_t *qkv;       // reduced [tokens, 3 hidden]
  int64_t qkv_stride;
  uint8_t *qkv8;      // INT8 attention: u8, s8, s8 [tokens, 3 hidden], and
  float *qkv8_scale;  // [tokens, 3 heads]
  const float *bias;  // [bias_batch, heads, sequence, sequence], or null
  int64_t bias_batch;
  const float *cos, *sin;  // [sequence, head size], if the layer has rotary positions
};

// The tensors between the steps. Row 0 of a tensor is token `first`; from attention on, row `first` of the output.
struct Tensors {
  int64_t first = 0, rows = 0;
  Activations a{};               // the quantized input of the next product
  uint8_t *context = nullptr;    // reduced: the attention's result; row stride context_stride()
  float *attended = nullptr;     // [rows, hidden]: after the attention output, before its LayerNorm
  float *hidden = nullptr;       // [rows, hidden]: the residual of the feed-forward block; may be `attended`
  uint8_t *wide = nullptr;       // reduced: after the intermediate product; row stride wide_stride()
  float *sum = nullptr;          // [rows, hidden]: after the output product, before its LayerNorm; may be y
  float *row = nullptr;          // [row_width()]
  uint8_t *scratch = nullptr;    // scratch memory of attention
};

// Elements between rows. Padded, because strides that are multiples of 4 KB map all rows to a few sets of L1.
inline int64_t context_stride(const EncoderLayer &layer) { return layer.hidden + 32; }
inline int64_t wide_stride(const EncoderLayer &layer) { return (layer.gated ? 2 : 1) * layer.intermediate + 32; }
inline int64_t row_width(const EncoderLayer &layer) { return std::max(layer.hidden, layer.intermediate); }
inline int64_t qkv_stride(const EncoderLayer &layer) { return 3 * layer.hidden + 32; }

// Whether attention multiplies in INT8: if the instruction set supports it and SPARSE_DEPLOY_ATTENTION=float does not
// select the floating-point products (bfloat16 or float).
bool uses_int8_attention(const EncoderLayer &layer);
size_t attention_scratch(const LayerCall &call);

// The dimension over which a step can be distributed.
enum Split {
  kOwnRows,  // each thread for the rows that it continues with: cheap, and read at once
  kRows,     // rows of tokens
  kColumns,  // chunks of 64 output columns
  kHeads,    // sequences x heads; reads rows of other threads
};

// A part of a step. kRows and kHeads read the rows, kHeads the heads, kColumns the chunks.
struct Share {
  int64_t row_begin, row_end;      // tokens; from attention on rows of the output
  int64_t head_begin, head_end;
  int64_t chunk_begin, chunk_end;
};

struct Step {
  Part part;
  Split split;
  void (*run)(const LayerCall &, const Share &, const Tensors &);
  int64_t (*chunks)(const EncoderLayer &);  // kColumns: number of chunks
};

// Steps before kFirstOutputStep compute all tokens, later steps only the rows of the output.
constexpr int kStepCount = 11, kFirstOutputStep = 3;
extern const Step kSteps[kStepCount];

}  // namespace sd
