// SPDX-License-Identifier: Apache-2.0
#include "sparse_encoder_layer.h"

#include <string>
#include <vector>

#include "../operators/config.h"
#include "pool.h"

namespace ort {

SparseEncoderLayer::SparseEncoderLayer(const NodeInfo &node) {
  const sd_layer_config config = operators::read_layer(node);
  hidden_ = config.hidden;
  sd_error error{};
  layer_.reset(sd_layer_create(&config, &error));
  if (!layer_) node.fail(error.message);
}

void SparseEncoderLayer::run(RunContext &context) const {
  const Tensor x = context.input(0);
  const Tensor mask = context.input(1);
  if (x.dims.size() != 3 || x.dims[2] != hidden_) {
    context.fail("X has shape " + shape_text(x.dims) + ", expected [batch, sequence, " + std::to_string(hidden_) + "]");
  }
  const int64_t batch = x.dims[0], sequence = x.dims[1];
  if (mask.dims != std::vector<int64_t>{batch, sequence}) {
    context.fail("mask has shape " + shape_text(mask.dims) + ", expected " + shape_text({batch, sequence}));
  }
  void *const y = context.output(x.dims);
  if (batch == 0 || sequence == 0) return;
  sd_error error{};
  if (sd_layer_run(layer_.get(), static_cast<const float *>(x.data), static_cast<const int64_t *>(mask.data), batch,
                   sequence, static_cast<float *>(y), context.pool.get(), &error)) {
    context.fail(error.message, kFail);
  }
}

void SparseEncoderLayer::infer(ShapeInference &shapes) { shapes.output(shapes.input(0)); }

}  // namespace ort
