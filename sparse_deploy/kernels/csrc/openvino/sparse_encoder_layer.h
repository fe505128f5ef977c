// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "operator.h"

namespace sparse_deploy {

// One encoder layer; docs/sparse_operators.md.
class SparseEncoderLayer final : public Operator {
 public:
  OPENVINO_RTTI("SparseEncoderLayer", "sparse_deploy", Operator);

  SparseEncoderLayer() : Operator(2) {}
  bool visit_attributes(ov::AttributeVisitor &visitor) override;

 protected:
  std::shared_ptr<Operator> make() const override { return std::make_shared<SparseEncoderLayer>(); }
  std::unique_ptr<const Kernel> pack(const NodeView &node) const override;
  ov::PartialShape infer(const NodeView &node) const override;
};

}  // namespace sparse_deploy
