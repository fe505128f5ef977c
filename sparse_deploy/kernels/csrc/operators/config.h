// SPDX-License-Identifier: Apache-2.0
// Makes the core's configuration of an operator from a node. Checks here all that the core cannot check because a
// pointer has no length; the pointers remain those of the node's constants.
#pragma once

#include <sparse_deploy_kernels.h>

#include <cstdint>
#include <vector>

#include "node.h"

namespace operators {

struct Extent {
  int64_t n, k;
};

struct Linear {
  sd_linear_config config;
  Extent extent;
};

// A layer's constants are followed by the tensors that its attributes require: position bias, then cosines and sines.
constexpr size_t kFirstTensor = 26;

// The tensors of one call other than X and mask.
struct LayerTensors {
  bool position_bias, rotary;
  int64_t heads, head_size;

  explicit LayerTensors(const sd_layer_config &config)
      : position_bias(config.position_bias != 0), rotary(config.rotary != 0), heads(config.heads),
        head_size(config.hidden / config.heads) {}

  // Fills `inputs`, whose batch and sequence are set. find(index) returns an input's data and dims; fail(dims, name,
  // expected) reports a wrong shape and does not return.
  template <typename Find, typename Fail>
  void read(Find find, Fail fail, sd_layer_inputs &inputs) const;
};

// Number of entries of a bias, one for all sequences (1) or one per sequence (batch); 0 if the shape is neither
// [n, heads, sequence, sequence] nor [n * heads, sequence, sequence].
inline int64_t bias_sequences(const std::vector<int64_t> &dims, int64_t batch, int64_t heads, int64_t sequence) {
  int64_t n = 0;
  if (dims == std::vector<int64_t>{1, heads, sequence, sequence} || dims == std::vector<int64_t>{heads, sequence, sequence})
    n = 1;
  else if (dims == std::vector<int64_t>{batch, heads, sequence, sequence} ||
           dims == std::vector<int64_t>{batch * heads, sequence, sequence})
    n = batch;
  return n;
}

template <typename Find, typename Fail>
void LayerTensors::read(Find find, Fail fail, sd_layer_inputs &inputs) const {
  size_t index = kFirstTensor;
  if (position_bias) {
    const auto [data, dims] = find(index);
    inputs.bias = data;
    inputs.bias_batch = bias_sequences(dims, inputs.batch, heads, inputs.sequence);
    if (!inputs.bias_batch)
      fail(dims, "the position bias", shape_text({inputs.batch, heads, inputs.sequence, inputs.sequence}));
    ++index;
  }
  if (!rotary) return;
  for (const float **table : {&inputs.cos, &inputs.sin}) {
    const auto [data, dims] = find(index++);
    // Leading dimensions of 1 are allowed.
    size_t first = 0;
    while (first + 2 < dims.size() && dims[first] == 1) ++first;
    if (std::vector<int64_t>(dims.begin() + static_cast<int64_t>(first), dims.end()) !=
        std::vector<int64_t>{inputs.sequence, head_size})
      fail(dims, table == &inputs.cos ? "cos" : "sin", shape_text({inputs.sequence, head_size}));
    *table = data;
  }
}

Linear read_linear(const Node &node);
sd_layer_config read_layer(const Node &node);

}  // namespace operators
