// SPDX-License-Identifier: Apache-2.0
#include "sparse_linear.h"

#include <sparse_deploy_kernels.h>

#include "../operators/config.h"
#include "pool.h"

namespace sparse_deploy {
namespace {

struct Delete {
  void operator()(sd_linear *linear) const { sd_linear_destroy(linear); }
};

class LinearKernel final : public Kernel {
 public:
  explicit LinearKernel(const NodeView &node) {
    const operators::Linear read = operators::read_linear(node);
    extent_ = read.extent;
    sd_error error{};
    linear_.reset(sd_linear_create(&read.config, &error));
    if (!linear_) node.fail(error.message);
  }

  void run(const ov::TensorVector &inputs, ov::Tensor &output, const NodeView &node) const override {
    ov::Shape shape = inputs[0].get_shape();
    if (shape.empty() || static_cast<int64_t>(shape.back()) != extent_.k) {
      node.fail("X has shape " + operators::shape_text({shape.begin(), shape.end()}) + ", expected [..., " +
                std::to_string(extent_.k) + "]");
    }
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= static_cast<int64_t>(shape[i]);
    shape.back() = static_cast<size_t>(extent_.n);
    if (output.get_shape() != shape) output.set_shape(shape);
    if (!rows) return;
    const sd_pool pool = stream_pool();
    sd_error error{};
    if (sd_linear_run(linear_.get(), inputs[0].data<const float>(), rows, output.data<float>(), &pool, &error)) {
      node.fail(error.message);
    }
  }

 private:
  operators::Extent extent_;
  std::unique_ptr<sd_linear, Delete> linear_;
};

constexpr size_t kLeastInputs = 4, kMostInputs = 6;

}  // namespace

bool SparseLinear::visit_attributes(ov::AttributeVisitor &visitor) {
  if (attributes_.activation.empty()) attributes_.activation = "none";
  visitor.on_attribute("activation", attributes_.activation);
  return true;
}

ov::PartialShape SparseLinear::infer(const NodeView &node) const {
  const size_t inputs = get_input_size();
  if (inputs < kLeastInputs || inputs > kMostInputs) {
    node.fail("it has " + std::to_string(inputs) + " inputs, expected 4 to 6");
  }
  ov::PartialShape shape = get_input_partial_shape(0);
  const ov::PartialShape &scale = get_input_partial_shape(2);
  if (shape.rank().is_dynamic() || scale.rank().is_dynamic() || scale.size() != 1) return ov::PartialShape::dynamic();
  if (shape.size() == 0) node.fail("X is a single number, expected [..., in_features]");
  shape[shape.size() - 1] = scale[0];
  return shape;
}

std::unique_ptr<const Kernel> SparseLinear::pack(const NodeView &node) const {
  return std::make_unique<LinearKernel>(node);
}

}  // namespace sparse_deploy
