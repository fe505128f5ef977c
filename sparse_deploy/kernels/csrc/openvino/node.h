// SPDX-License-Identifier: Apache-2.0
// An OpenVINO node's constants and attributes for the checks that all adapters share.
#pragma once

#include <openvino/core/node.hpp>
#include <string>

#include "../operators/node.h"

namespace sparse_deploy {

// The prefix of every error of this library, by which the package finds it in OpenVINO's text.
constexpr const char *kErrorPrefix = "sparse_deploy: ";

struct Attributes {
  int64_t num_heads = 0;
  float epsilon = 0;
  std::string activation;
  int64_t operator_version = 1, output_tokens = 0, unpadded_input = 0, unpadded_output = 0;
  int64_t position_bias = 0;
  int64_t norm_first = 0, attention_norm = 1, gated = 0, packed_qkv = 0, rotary = 0, window = 0;
  float attention_scale = 0, output_epsilon = 0;
};

class NodeView final : public operators::Node {
 public:
  // name: the node's name, for a copy that has no name yet. Texts are built only when needed: OpenVINO copies a node
  // for the shape inference of every request.
  NodeView(const ov::Node &node, const Attributes &attributes, const std::string *name = nullptr)
      : node_(node), attributes_(attributes), name_(name) {}

  bool has_input(size_t index) const override { return index < node_.get_input_size(); }
  operators::Constant<uint8_t> bytes(size_t index, const char *name, int64_t expected) const override;
  operators::Constant<float> floats(size_t index, const char *name, int64_t expected) const override;

  std::string text(const char *, const char *missing) const override;
  int64_t whole_number(const char *attribute, const int64_t *) const override;
  float number(const char *attribute, const float *) const override;

  [[noreturn]] void fail(const std::string &problem) const override;

 private:
  template <class T>
  operators::Constant<T> constant(size_t index, const char *name, ov::element::Type type, int64_t expected) const;

  const ov::Node &node_;
  const Attributes &attributes_;
  const std::string *const name_;
};

}  // namespace sparse_deploy
