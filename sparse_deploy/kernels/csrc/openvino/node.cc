// SPDX-License-Identifier: Apache-2.0
#include "node.h"

#include <openvino/op/constant.hpp>
#include <stdexcept>
#include <string_view>

namespace sparse_deploy {

template <class T>
operators::Constant<T> NodeView::constant(size_t index, const char *name, ov::element::Type type,
                                          int64_t expected) const {
  const std::string input = "input " + std::to_string(index) + " (" + name + ")";
  if (index >= node_.get_input_size()) fail(input + " is missing");
  const auto found = ov::as_type_ptr<ov::op::v0::Constant>(node_.get_input_node_shared_ptr(index));
  if (!found) fail(input + " must be a constant");
  if (found->get_element_type() != type) {
    fail(input + " has element type " + found->get_element_type().get_type_name() + ", expected " +
         type.get_type_name());
  }
  const ov::Shape &shape = found->get_shape();
  if (shape.size() != 1 || (expected >= 0 && static_cast<int64_t>(shape[0]) != expected)) {
    const std::string wanted = expected >= 0 ? operators::shape_text({expected}) : "one dimension";
    fail(input + " has shape " + operators::shape_text({shape.begin(), shape.end()}) + ", expected " + wanted);
  }
  return {static_cast<const T *>(found->get_data_ptr()), shape[0]};
}

operators::Constant<uint8_t> NodeView::bytes(size_t index, const char *name, int64_t expected) const {
  return constant<uint8_t>(index, name, ov::element::u8, expected);
}

operators::Constant<float> NodeView::floats(size_t index, const char *name, int64_t expected) const {
  return constant<float>(index, name, ov::element::f32, expected);
}

// `activation` is the only string attribute.
std::string NodeView::text(const char *attribute, const char *missing) const {
  if (!attributes_.activation.empty()) return attributes_.activation;
  if (!missing) fail("attribute " + std::string(attribute) + " is required and must be a string");
  return missing;
}

float NodeView::number(const char *attribute, const float *) const {
  const std::string name = attribute;
  if (name == "attention_scale") return attributes_.attention_scale;
  if (name == "output_epsilon") return attributes_.output_epsilon;
  return attributes_.epsilon;
}

int64_t NodeView::whole_number(const char *attribute, const int64_t *) const {
  const std::string_view name = attribute;
  if (name == "num_heads") return attributes_.num_heads;
  if (name == "operator_version") return attributes_.operator_version;
  if (name == "output_tokens") return attributes_.output_tokens;
  if (name == "position_bias") return attributes_.position_bias;
  if (name == "norm_first") return attributes_.norm_first;
  if (name == "attention_norm") return attributes_.attention_norm;
  if (name == "gated") return attributes_.gated;
  if (name == "packed_qkv") return attributes_.packed_qkv;
  if (name == "rotary") return attributes_.rotary;
  if (name == "window") return attributes_.window;
  if (name == "unpadded_input") return attributes_.unpadded_input;
  if (name == "unpadded_output") return attributes_.unpadded_output;
  fail("attribute " + std::string(name) + " is unknown");
}

void NodeView::fail(const std::string &problem) const {
  const std::string &name = name_ ? *name_ : node_.get_friendly_name();
  throw std::runtime_error(std::string(kErrorPrefix) + node_.get_type_name() + " node '" + name + "': " + problem);
}

}  // namespace sparse_deploy
