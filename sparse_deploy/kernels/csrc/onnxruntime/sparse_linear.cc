// SPDX-License-Identifier: Apache-2.0
#include "sparse_linear.h"

#include <string>
#include <vector>

#include "../operators/config.h"
#include "pool.h"

namespace ort {

SparseLinear::SparseLinear(const NodeInfo &node) {
  const operators::Linear linear = operators::read_linear(node);
  n_ = linear.extent.n;
  k_ = linear.extent.k;
  sd_error error{};
  linear_.reset(sd_linear_create(&linear.config, &error));
  if (!linear_) node.fail(error.message);
}

void SparseLinear::run(RunContext &context) const {
  const Tensor x = context.input(0);
  if (x.dims.empty() || x.dims.back() != k_) {
    context.fail("X has shape " + shape_text(x.dims) + ", expected [..., " + std::to_string(k_) + "]");
  }
  std::vector<int64_t> dims = x.dims;
  dims.back() = n_;
  void *const y = context.output(dims);
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) rows *= dims[i];
  if (rows) {
    sd_error error{};
    if (sd_linear_run(linear_.get(), static_cast<const float *>(x.data), rows, static_cast<float *>(y),
                      context.pool.get(), &error)) {
      context.fail(error.message, kFail);
    }
  }
}

void SparseLinear::infer(ShapeInference &shapes) {
  std::vector<Dimension> dims = shapes.input(0);
  const std::vector<Dimension> scale = shapes.input(2);
  if (dims.empty() || scale.size() != 1) return;
  dims.back() = scale[0];
  shapes.output(dims);
}

}  // namespace ort
