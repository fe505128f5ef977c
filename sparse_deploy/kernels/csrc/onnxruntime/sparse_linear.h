// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sparse_deploy_kernels.h>

#include <memory>

#include "node.h"
#include "operator.h"

namespace ort {

struct LinearDelete {
  void operator()(sd_linear *linear) const { sd_linear_destroy(linear); }
};

// Y = act(X * (W * scale)^T + bias); docs/sparse_operators.md.
class SparseLinear {
 public:
  static constexpr const char *kName = "SparseLinear";
  static constexpr Input kInputs[] = {{kFloat, kRequired}, {kUint8, kRequired}, {kFloat, kRequired},
                                      {kFloat, kRequired}, {kFloat, kOptional}, {kUint8, kOptional}};
  static constexpr bool kInPlace = false;  // rows of Y have a different length

  explicit SparseLinear(const NodeInfo &node);
  void run(RunContext &context) const;
  static void infer(ShapeInference &shapes);

 private:
  int64_t n_, k_;
  std::unique_ptr<sd_linear, LinearDelete> linear_;
};

}  // namespace ort
