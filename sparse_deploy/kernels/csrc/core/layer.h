// SPDX-License-Identifier: Apache-2.0
// One encoder layer: SparseEncoderLayer.
#pragma once

#include <string>
#include <vector>

#include "linear.h"

namespace sd {

struct EncoderLayer {
  const InstructionSet *set = nullptr;
  int64_t hidden = 0, intermediate = 0, heads = 0;
  LinearWeights linears[SD_LINEARS];
  LinearWeights gate;  // the second half of a gated intermediate layer; linears[SD_INTERMEDIATE] is the first
  std::vector<float> attention_gamma, attention_beta, output_gamma, output_beta;
  LayerNorm attention_norm{}, output_norm{};
  // Position of column c of the attention's output and of the output among the packed rows; empty if they are not
  // sorted.
  std::vector<int32_t> attention_position, output_position;
  int64_t output_tokens = 0;
  bool unpadded_input = false, unpadded_output = false;
  float attention_scale = 0;
  bool position_bias = false;
  bool norm_first = false, norm_attention = true;  // norm_attention: whether attention has a LayerNorm
  bool gated = false, rotary = false;
  int64_t window = 0;

  int64_t head_size() const { return hidden / heads; }
  // Returns "" or the error of the configuration.
  std::string build(const sd_layer_config &config, const InstructionSet &set);
  // y [batch, output_sequence, hidden]. Throws if a request fails: no memory, sequence too long, missing inputs.
  void run(const sd_layer_inputs &inputs, float *y, const sd_pool *pool) const;
};

}  // namespace sd
