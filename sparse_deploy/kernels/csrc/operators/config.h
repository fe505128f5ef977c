// SPDX-License-Identifier: Apache-2.0
// From a node to what the core builds an operator of. Everything that the core can't check, because a pointer has no
// length, is checked here; pointers stay those of the node's constants.
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

// The position bias of a layer is no constant; it may have one entry for all sequences or one each.
constexpr size_t kPositionBiasInput = 26;
// How many sequences a bias of this shape is for: 1 or batch; 0 where it is neither [n, heads, sequence, sequence] nor
// [n * heads, sequence, sequence].
inline int64_t bias_sequences(const std::vector<int64_t> &dims, int64_t batch, int64_t heads, int64_t sequence) {
  int64_t n = 0;
  if (dims == std::vector<int64_t>{1, heads, sequence, sequence} || dims == std::vector<int64_t>{heads, sequence, sequence})
    n = 1;
  else if (dims == std::vector<int64_t>{batch, heads, sequence, sequence} ||
           dims == std::vector<int64_t>{batch * heads, sequence, sequence})
    n = batch;
  return n;
}

Linear read_linear(const Node &node);
sd_layer_config read_layer(const Node &node);

}  // namespace operators
