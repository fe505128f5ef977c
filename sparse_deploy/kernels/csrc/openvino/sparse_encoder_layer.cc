// SPDX-License-Identifier: Apache-2.0
#include "sparse_encoder_layer.h"

#include <sparse_deploy_kernels.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "../operators/config.h"
#include "pool.h"

namespace sparse_deploy {
namespace {

constexpr size_t kInputs = 24, kInputsStatic = 26, kMostInputs = 29;

struct Delete {
  void operator()(sd_layer *layer) const { sd_layer_destroy(layer); }
};

// The CPU plugin has no i64: it passes i32 instead.
const int64_t *read_mask(const ov::Tensor &mask, std::vector<int64_t> &widened) {
  if (mask.get_element_type() == ov::element::i64) return mask.data<const int64_t>();
  const int32_t *const narrow = mask.data<const int32_t>();
  widened.assign(narrow, narrow + mask.get_size());
  return widened.data();
}

class LayerKernel final : public Kernel {
 public:
  explicit LayerKernel(const NodeView &node) {
    const sd_layer_config config = operators::read_layer(node);
    hidden_ = config.hidden;
    output_tokens_ = config.output_tokens;
    tensors_.emplace(config);
    sd_error error{};
    layer_.reset(sd_layer_create(&config, &error));
    if (!layer_) node.fail(error.message);
  }

  void run(const ov::TensorVector &inputs, ov::Tensor &output, const NodeView &node) const override {
    const ov::Shape shape = inputs[0].get_shape(), mask_shape = inputs[1].get_shape();
    if (shape.size() != 3 || static_cast<int64_t>(shape[2]) != hidden_) {
      fail(node, "X", shape, "[batch, sequence, " + std::to_string(hidden_) + "]");
    }
    const auto batch = static_cast<int64_t>(shape[0]), sequence = static_cast<int64_t>(shape[1]);
    if (mask_shape != ov::Shape{shape[0], shape[1]}) {
      fail(node, "mask", mask_shape, operators::shape_text({batch, sequence}));
    }
    const int64_t tokens = output_tokens_ ? std::min(output_tokens_, sequence) : sequence;
    const ov::Shape output_shape{shape[0], static_cast<size_t>(tokens), shape[2]};
    if (output.get_shape() != output_shape) output.set_shape(output_shape);
    if (batch == 0 || sequence == 0) return;
    std::vector<int64_t> widened;
    sd_layer_inputs given{};
    given.x = inputs[0].data<const float>();
    given.mask = read_mask(inputs[1], widened);
    given.batch = batch;
    given.sequence = sequence;
    tensors_->read(
        [&](size_t index) {
          const ov::Shape found = inputs[index].get_shape();
          return std::pair(inputs[index].data<const float>(), std::vector<int64_t>(found.begin(), found.end()));
        },
        [&](const std::vector<int64_t> &found, const char *name, const std::string &expected) {
          fail(node, name, {found.begin(), found.end()}, expected);
        },
        given);
    const sd_pool pool = stream_pool();
    sd_error error{};
    if (sd_layer_run(layer_.get(), &given, output.data<float>(), &pool, &error)) {
      node.fail(error.message);
    }
  }

 private:
  static void fail(const NodeView &node, const std::string &name, const ov::Shape &found,
                   const std::string &expected) {
    node.fail(name + " has shape " + operators::shape_text({found.begin(), found.end()}) + ", expected " + expected);
  }

  int64_t hidden_, output_tokens_;
  std::optional<operators::LayerTensors> tensors_;
  std::unique_ptr<sd_layer, Delete> layer_;
};

}  // namespace

bool SparseEncoderLayer::visit_attributes(ov::AttributeVisitor &visitor) {
  visitor.on_attribute("num_heads", attributes_.num_heads);
  visitor.on_attribute("epsilon", attributes_.epsilon);
  visitor.on_attribute("activation", attributes_.activation);
  visitor.on_attribute("operator_version", attributes_.operator_version);
  visitor.on_attribute("output_tokens", attributes_.output_tokens);
  visitor.on_attribute("unpadded_input", attributes_.unpadded_input);
  visitor.on_attribute("unpadded_output", attributes_.unpadded_output);
  visitor.on_attribute("position_bias", attributes_.position_bias);
  visitor.on_attribute("norm_first", attributes_.norm_first);
  visitor.on_attribute("attention_norm", attributes_.attention_norm);
  visitor.on_attribute("gated", attributes_.gated);
  visitor.on_attribute("packed_qkv", attributes_.packed_qkv);
  visitor.on_attribute("rotary", attributes_.rotary);
  visitor.on_attribute("window", attributes_.window);
  visitor.on_attribute("attention_scale", attributes_.attention_scale);
  visitor.on_attribute("output_epsilon", attributes_.output_epsilon);
  return true;
}

ov::PartialShape SparseEncoderLayer::infer(const NodeView &node) const {
  const size_t inputs = get_input_size();
  if (inputs != kInputs && (inputs < kInputsStatic || inputs > kMostInputs)) {
    node.fail("it has " + std::to_string(inputs) + " inputs, expected 24, or 26 to 29");
  }
  const ov::element::Type mask = get_input_element_type(1);
  if (mask != ov::element::i64 && mask != ov::element::i32 && !mask.is_dynamic()) {
    node.fail("input 1 (mask) has element type " + mask.get_type_name() + ", expected i64");
  }
  ov::PartialShape shape = get_input_partial_shape(0);
  if (shape.rank().is_static() && shape.size() != 3) {
    node.fail("X has " + std::to_string(shape.size()) + " dimensions, expected [batch, sequence, hidden]");
  }
  const int64_t tokens = attributes_.output_tokens;
  if (tokens > 0 && shape.rank().is_static()) {
    const int64_t least = shape[1].get_min_length(), most = shape[1].get_max_length();  // -1: no limit
    shape[1] = ov::Dimension(std::min(least, tokens), most < 0 ? tokens : std::min(most, tokens));
  }
  return shape;
}

std::unique_ptr<const Kernel> SparseEncoderLayer::pack(const NodeView &node) const {
  return std::make_unique<LayerKernel>(node);
}

}  // namespace sparse_deploy
