// SPDX-License-Identifier: Apache-2.0
// Shared code of both operators as nodes of an OpenVINO graph: their packed constants, and the call of the core.
//
// Weights are inputs of the node, as constants in the compact form, because OpenVINO's IR stores only constants. They
// are packed once, when compile_model copies the graph, before it makes a graph per stream. All copies of a node with
// the same constants share the packed weights.
#pragma once

#include <memory>
#include <mutex>
#include <openvino/op/op.hpp>
#include <string>
#include <vector>

#include "node.h"

namespace sparse_deploy {

// The packed constants of one node, ready to run from many threads.
class Kernel {
 public:
  Kernel();
  virtual ~Kernel();
  Kernel(const Kernel &) = delete;
  Kernel &operator=(const Kernel &) = delete;

  virtual void run(const ov::TensorVector &inputs, ov::Tensor &output, const NodeView &node) const = 0;

  static int64_t alive();  // number of instances in this process
};

class Operator : public ov::op::Op {
 public:
  OPENVINO_RTTI("Operator", "sparse_deploy", ov::op::Op);
  using ov::op::Op::evaluate;

  void validate_and_infer_types() override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector &inputs) const override;
  bool has_evaluate() const override { return true; }
  bool evaluate(ov::TensorVector &outputs, const ov::TensorVector &inputs) const override;

 protected:
  // The first `data_inputs` inputs are tensors, the rest are constants.
  explicit Operator(size_t data_inputs) : data_inputs_(data_inputs) {}

  virtual std::shared_ptr<Operator> make() const = 0;
  virtual std::unique_ptr<const Kernel> pack(const NodeView &node) const = 0;
  // Throws if the ports' types or ranks are invalid.
  virtual ov::PartialShape infer(const NodeView &node) const = 0;

  Attributes attributes_;

 private:
  struct Packed {
    explicit Packed(std::vector<const void *> constants_) : constants(std::move(constants_)) {}
    const std::vector<const void *> constants;  // addresses of its constants; null: not a constant
    std::mutex mutex;
    std::unique_ptr<const Kernel> kernel;
  };

  std::vector<const void *> constants() const;
  const Kernel &kernel(const NodeView &node) const;

  const size_t data_inputs_;
  std::shared_ptr<Packed> packed_;
};

}  // namespace sparse_deploy
