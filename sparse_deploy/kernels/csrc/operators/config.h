// SPDX-License-Identifier: Apache-2.0
// From a node to what the core builds an operator of. Everything that the core can't check, because a pointer has no
// length, is checked here; pointers stay those of the node's constants.
#pragma once

#include <sparse_deploy_kernels.h>

#include <cstdint>

#include "node.h"

namespace operators {

struct Extent {
  int64_t n, k;
};

struct Linear {
  sd_linear_config config;
  Extent extent;
};

Linear read_linear(const Node &node);
sd_layer_config read_layer(const Node &node);

}  // namespace operators
