// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "operator.h"

namespace sparse_deploy {

// Y = act(X * (W * scale)^T + bias); docs/sparse_operators.md.
class SparseLinear final : public Operator {
 public:
  OPENVINO_RTTI("SparseLinear", "sparse_deploy", Operator);

  SparseLinear() : Operator(1) {}
  bool visit_attributes(ov::AttributeVisitor &visitor) override;

 protected:
  std::shared_ptr<Operator> make() const override { return std::make_shared<SparseLinear>(); }
  std::unique_ptr<const Kernel> pack(const NodeView &node) const override;
  ov::PartialShape infer(const NodeView &node) const override;
};

}  // namespace sparse_deploy
