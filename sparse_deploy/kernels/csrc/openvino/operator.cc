// SPDX-License-Identifier: Apache-2.0
#include "operator.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <openvino/op/constant.hpp>

namespace sparse_deploy {
namespace {

std::atomic<int64_t> kernels{0};

}  // namespace

Kernel::Kernel() { ++kernels; }
Kernel::~Kernel() { --kernels; }
int64_t Kernel::alive() { return kernels; }

std::vector<const void *> Operator::constants() const {
  std::vector<const void *> addresses;
  addresses.reserve(get_input_size());
  for (size_t i = data_inputs_; i < get_input_size(); ++i) {
    const auto *const found = ov::as_type<ov::op::v0::Constant>(get_input_node_ptr(i));
    addresses.push_back(found ? found->get_data_ptr() : nullptr);
  }
  return addresses;
}

void Operator::validate_and_infer_types() {
  const NodeView node(*this, attributes_);
  if (get_input_element_type(0) != ov::element::f32 && !get_input_element_type(0).is_dynamic()) {
    node.fail("input 0 (X) has element type " + get_input_element_type(0).get_type_name() + ", expected f32");
  }
  set_output_type(0, ov::element::f32, infer(node));
  std::vector<const void *> found = constants();
  if (!packed_ || packed_->constants != found) packed_ = std::make_shared<Packed>(std::move(found));
}

std::shared_ptr<ov::Node> Operator::clone_with_new_inputs(const ov::OutputVector &inputs) const {
  const std::shared_ptr<Operator> copy = make();
  copy->attributes_ = attributes_;
  copy->packed_ = packed_;
  copy->set_arguments(inputs);
  copy->constructor_validate_and_infer_types();
  copy->kernel(NodeView(*copy, attributes_, &get_friendly_name()));  // OpenVINO sets the copy's name later
  return copy;
}

// A graph imported from a cache of compiled models is never copied: then the first request packs the weights.
const Kernel &Operator::kernel(const NodeView &node) const {
  const std::lock_guard<std::mutex> lock(packed_->mutex);
  if (!packed_->kernel) packed_->kernel = pack(node);
  return *packed_->kernel;
}

bool Operator::evaluate(ov::TensorVector &outputs, const ov::TensorVector &inputs) const {
  const NodeView node(*this, attributes_);
  try {
    kernel(node).run(inputs, outputs[0], node);
  } catch (...) {
    // With one thread, OpenVINO 2026.4 drops an exception of a node in a synchronous request, and the output keeps the
    // result of the previous request.
    std::fill_n(outputs[0].data<float>(), outputs[0].get_size(), std::numeric_limits<float>::quiet_NaN());
    throw;
  }
  return true;
}

}  // namespace sparse_deploy
