// SPDX-License-Identifier: Apache-2.0
// One encoder layer of the BERT family: SparseEncoderLayer.
#pragma once

#include <string>
#include <vector>

#include "linear.h"

namespace sd {

struct EncoderLayer {
  const InstructionSet *set = nullptr;
  int64_t hidden = 0, intermediate = 0, heads = 0;
  LinearWeights linears[SD_LINEARS];
  std::vector<float> attention_gamma, attention_beta, output_gamma, output_beta;
  LayerNorm attention_norm{}, output_norm{};
  // Where column c of the attention's output and of the output is among the rows as they were packed; empty when in place.
  std::vector<int32_t> attention_position, output_position;
  int64_t output_tokens = 0;
  bool unpadded_input = false, unpadded_output = false;
  float attention_scale = 0;
  bool position_bias = false;

  int64_t head_size() const { return hidden / heads; }
  // Returns "" or what is wrong with the configuration.
  std::string build(const sd_layer_config &config, const InstructionSet &set);
  // x [batch, sequence, hidden], y [batch, output_sequence, hidden], mask [batch, sequence]. Throws what ends a request: no memory, too long a sequence.
  // bias [bias_batch, heads, sequence, sequence], where the layer has one; bias_batch is 1 or batch.
  void run(const float *x, const int64_t *mask, int64_t batch, int64_t sequence, const float *bias, int64_t bias_batch,
           float *y, const sd_pool *pool) const;
};

}  // namespace sd
