// SPDX-License-Identifier: Apache-2.0
#include "constants.h"

#include <cmath>
#include <cstring>

namespace ort {
namespace {

constexpr size_t kHeaderSize = 32, kExtentOffset = 8;

struct Activation {
  const char *name;
  sd_activation value;
};
constexpr Activation kActivations[] = {{"none", SD_ACTIVATION_NONE},
                                       {"gelu", SD_ACTIVATION_GELU},
                                       {"gelu_tanh", SD_ACTIVATION_GELU_TANH},
                                       {"relu", SD_ACTIVATION_RELU},
                                       {"tanh", SD_ACTIVATION_TANH}};

}  // namespace

Extent weight_extent(const NodeInfo &node, const Constant<uint8_t> &blob, const std::string &name) {
  if (blob.count < kHeaderSize) {
    node.fail(name + " is damaged: " + std::to_string(blob.count) + " bytes are less than its header");
  }
  uint32_t extent[2];
  std::memcpy(extent, blob.data + kExtentOffset, sizeof extent);
  return {extent[0], extent[1]};
}

const float *finite(const NodeInfo &node, const Constant<float> &constant, const std::string &name) {
  for (size_t i = 0; i < constant.count; ++i) {
    if (!std::isfinite(constant.data[i])) {
      node.fail(name + "[" + std::to_string(i) + "] is " + std::to_string(constant.data[i]) +
                ", expected a finite number");
    }
  }
  return constant.data;
}

sd_activation activation(const NodeInfo &node, std::initializer_list<const char *> allowed, const char *missing) {
  const std::string found = node.text("activation", missing);
  std::string names;
  for (const char *name : allowed) {
    if (found == name) {
      for (const Activation &activation : kActivations) {
        if (found == activation.name) return activation.value;
      }
    }
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  node.fail("activation is '" + found + "', expected one of " + names);
}

void read_quantization(const NodeInfo &node, size_t index, size_t count, sd_quantization *quantization) {
  const bool has_scale = node.has_input(index), has_zero_point = node.has_input(index + 1);
  if (has_scale != has_zero_point) {
    node.fail(std::string("x_scale and x_zero_point come together, found only ") +
              (has_scale ? "x_scale" : "x_zero_point"));
  }
  if (!has_scale) return;
  const Constant<float> scale = node.floats(index, "x_scale", static_cast<int64_t>(count));
  const Constant<uint8_t> zero_point = node.bytes(index + 1, "x_zero_point", static_cast<int64_t>(count));
  for (size_t i = 0; i < count; ++i) {
    if (!(scale.data[i] >= 0) || !std::isfinite(scale.data[i])) {
      node.fail("x_scale[" + std::to_string(i) + "] is " + std::to_string(scale.data[i]) +
                ", expected a positive number, or 0 for a dynamic scale");
    }
    quantization[i] = {scale.data[i], zero_point.data[i]};
  }
}

}  // namespace ort
