// SPDX-License-Identifier: Apache-2.0
#include "config.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

namespace operators {
namespace {

constexpr size_t kHeaderSize = 32, kExtentOffset = 8;
constexpr int64_t kNewestVersion = 2;
constexpr const char *kLinears[SD_LINEARS] = {"query", "key", "value", "attention output", "intermediate", "output"};
constexpr const char *kNorms[] = {"attention LayerNorm gamma", "attention LayerNorm beta", "output LayerNorm gamma",
                                  "output LayerNorm beta"};
constexpr size_t kFirstLinear = 2, kFirstNorm = 20, kLayerScales = 24, kLinearScales = 4, kMostTensors = 3;

struct Activation {
  const char *name;
  sd_activation value;
};
constexpr Activation kActivations[] = {{"none", SD_ACTIVATION_NONE},
                                       {"gelu", SD_ACTIVATION_GELU},
                                       {"gelu_tanh", SD_ACTIVATION_GELU_TANH},
                                       {"relu", SD_ACTIVATION_RELU},
                                       {"tanh", SD_ACTIVATION_TANH}};

// The shape in the blob's header, for comparison with scale and bias; the core checks the blob.
Extent weight_extent(const Node &node, const Constant<uint8_t> &blob, const std::string &name) {
  if (blob.count < kHeaderSize) {
    node.fail(name + " is damaged: " + std::to_string(blob.count) + " bytes are less than its header");
  }
  uint32_t extent[2];
  std::memcpy(extent, blob.data + kExtentOffset, sizeof extent);
  return {extent[0], extent[1]};
}

// The constant's data; no value may be infinite or NaN.
const float *finite(const Node &node, size_t index, const std::string &name, int64_t count) {
  const Constant<float> constant = node.floats(index, name.c_str(), count);
  for (size_t i = 0; i < constant.count; ++i) {
    if (!std::isfinite(constant.data[i])) {
      node.fail(name + "[" + std::to_string(i) + "] is " + std::to_string(constant.data[i]) +
                ", expected a finite number");
    }
  }
  return constant.data;
}

// The attribute `activation`, one of `allowed`; `missing` is the default, null if the attribute is required.
sd_activation activation(const Node &node, std::initializer_list<const char *> allowed, const char *missing) {
  const std::string found = node.text("activation", missing);
  std::string names;
  const Activation *chosen = nullptr;
  for (const char *name : allowed) {
    for (const Activation &activation : kActivations) {
      if (found == name && found == activation.name) chosen = &activation;
    }
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  if (!chosen) node.fail("activation is '" + found + "', expected one of " + names);
  return chosen->value;
}

// An optional attribute, within its limits.
int64_t whole_number(const Node &node, const char *attribute, int64_t missing, int64_t least, int64_t most) {
  const int64_t found = node.whole_number(attribute, &missing);
  if (found < least || found > most) {
    node.fail(std::string(attribute) + " is " + std::to_string(found) + ", expected " +
              (most == INT64_MAX ? "at least " + std::to_string(least)
                                 : std::to_string(least) + " to " + std::to_string(most)));
  }
  return found;
}

// x_scale at `index` and x_zero_point after it, `count` of each; without them all scales are dynamic.
void read_quantization(const Node &node, size_t index, size_t count, sd_quantization *quantization) {
  const bool has_scale = node.has_input(index), has_zero_point = node.has_input(index + 1);
  if (has_scale != has_zero_point) {
    node.fail(std::string("expected both x_scale and x_zero_point, found only ") +
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

}  // namespace

Linear read_linear(const Node &node) {
  const Constant<uint8_t> weight = node.bytes(1, "weight", -1);
  Linear linear{};
  linear.extent = weight_extent(node, weight, "weight");
  linear.config.blob = weight.data;
  linear.config.blob_size = weight.count;
  linear.config.scale = finite(node, 2, "scale", linear.extent.n);
  linear.config.bias = finite(node, 3, "bias", linear.extent.n);
  linear.config.activation = activation(node, {"none", "gelu", "gelu_tanh", "relu", "tanh"}, "none");
  read_quantization(node, kLinearScales, 1, &linear.config.quantization);
  return linear;
}

sd_layer_config read_layer(const Node &node) {
  sd_layer_config config{};
  const int64_t version = whole_number(node, "operator_version", 1, 1, INT64_MAX);
  if (version > kNewestVersion) {
    node.fail("it needs operator version " + std::to_string(version) + ", this library supports 1 to " +
              std::to_string(kNewestVersion) + "; install a newer sparse-deploy");
  }
  config.output_tokens = whole_number(node, "output_tokens", 0, 0, INT64_MAX);
  config.unpadded_input = static_cast<int32_t>(whole_number(node, "unpadded_input", 0, 0, 1));
  config.unpadded_output = static_cast<int32_t>(whole_number(node, "unpadded_output", 0, 0, 1));
  config.position_bias = static_cast<int32_t>(whole_number(node, "position_bias", 0, 0, 1));
  config.norm_first = static_cast<int32_t>(whole_number(node, "norm_first", 0, 0, 1));
  config.gated = static_cast<int32_t>(whole_number(node, "gated", 0, 0, 1));
  config.packed_qkv = static_cast<int32_t>(whole_number(node, "packed_qkv", 0, 0, 1));
  config.rotary = static_cast<int32_t>(whole_number(node, "rotary", 0, 0, 1));
  config.window = whole_number(node, "window", 0, 0, INT64_MAX);
  const bool attention_norm = whole_number(node, "attention_norm", 1, 0, 1) != 0;
  if (!attention_norm && !config.norm_first) node.fail("attention_norm is 0, but norm_first is 0, too");
  constexpr float kDefault = 0;
  config.attention_scale = node.number("attention_scale", &kDefault);
  config.output_epsilon = node.number("output_epsilon", &kDefault);
  config.heads = node.whole_number("num_heads");
  config.epsilon = node.number("epsilon");
  config.activation = activation(node, {"gelu", "gelu_tanh", "relu"}, nullptr);

  for (size_t i = 0; i < SD_LINEARS; ++i) {
    const size_t input = kFirstLinear + 3 * i;
    const std::string name = kLinears[i];
    const Constant<uint8_t> blob = node.bytes(input, (name + " weight").c_str(), -1);
    const Extent found = weight_extent(node, blob, name + " weight");
    if (i == SD_QUERY) config.hidden = config.packed_qkv ? found.k : found.n;
    if (i == SD_INTERMEDIATE) config.intermediate = config.gated ? found.n / 2 : found.n;
    const Extent expected{i == SD_INTERMEDIATE                      ? (config.gated ? 2 : 1) * config.intermediate
                          : config.packed_qkv && i <= SD_VALUE ? 3 * config.hidden
                                                                    : config.hidden,
                          i == SD_OUTPUT ? config.intermediate : config.hidden};
    if (found.n != expected.n || found.k != expected.k) {
      node.fail(name + " weight is " + shape_text({found.n, found.k}) + ", expected " +
                shape_text({expected.n, expected.k}));
    }
    if (config.packed_qkv && (i == SD_KEY || i == SD_VALUE)) {
      const auto &query = config.linears[SD_QUERY];
      if (blob.count != query.blob_size || std::memcmp(blob.data, query.blob, kHeaderSize) != 0) {
        node.fail("packed_qkv is 1, but " + name + " weight differs from the query weight");
      }
    }
    config.linears[i].blob = blob.data;
    config.linears[i].blob_size = blob.count;
    config.linears[i].scale = finite(node, input + 1, name + " scale", found.n);
    config.linears[i].bias = finite(node, input + 2, name + " bias", found.n);
  }
  if (config.heads < 1 || config.hidden % config.heads) {
    node.fail("num_heads is " + std::to_string(config.heads) + ", expected a divisor of the hidden size " +
              std::to_string(config.hidden));
  }
  const float **const norms[] = {&config.attention_gamma, &config.attention_beta, &config.output_gamma,
                                 &config.output_beta};
  for (size_t i = 0; i < 4; ++i) *norms[i] = finite(node, kFirstNorm + i, kNorms[i], config.hidden);
  read_quantization(node, kLayerScales, 4, config.quantization);
  if (!attention_norm) config.attention_gamma = config.attention_beta = nullptr;
  const size_t tensors = static_cast<size_t>(config.position_bias + 2 * config.rotary);
  size_t found = 0;
  while (found < kMostTensors && node.has_input(kFirstTensor + found)) ++found;
  if (found != tensors) {
    node.fail("position_bias is " + std::to_string(config.position_bias) + " and rotary is " +
              std::to_string(config.rotary) + ", so " + std::to_string(tensors) +
              " inputs are expected after x_zero_point, found " + std::to_string(found));
  }
  return config;
}

}  // namespace operators
