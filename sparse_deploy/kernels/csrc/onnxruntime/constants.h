// SPDX-License-Identifier: Apache-2.0
// Checks of the constants that both operators have in common.
#pragma once

#include <sparse_deploy_kernels.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "node.h"

namespace ort {

struct Extent {
  int64_t n, k;
};

// What the blob says of itself, so that scale and bias can be compared with it; the core checks the blob.
Extent weight_extent(const NodeInfo &node, const Constant<uint8_t> &blob, const std::string &name);

// The constant's data when no value is infinite or NaN.
const float *finite(const NodeInfo &node, const Constant<float> &constant, const std::string &name);

// The attribute `activation`, one of `allowed`; missing is the default, null where the attribute is required.
sd_activation activation(const NodeInfo &node, std::initializer_list<const char *> allowed, const char *missing);

// x_scale at `index` and x_zero_point behind it, `count` of each; without them all stay dynamic.
void read_quantization(const NodeInfo &node, size_t index, size_t count, sd_quantization *quantization);

}  // namespace ort
