// SPDX-License-Identifier: Apache-2.0
#include "sparse_encoder_layer.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "pool.h"

namespace ort {

SparseEncoderLayer::SparseEncoderLayer(const NodeInfo &node) {
  const sd_layer_config config = operators::read_layer(node);
  hidden_ = config.hidden;
  output_tokens_ = config.output_tokens;
  tensors_.emplace(config);
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
  void *const y = context.output({batch, output_tokens_ ? std::min(output_tokens_, sequence) : sequence, hidden_});
  if (batch == 0 || sequence == 0) return;
  sd_layer_inputs inputs{};
  inputs.x = static_cast<const float *>(x.data);
  inputs.mask = static_cast<const int64_t *>(mask.data);
  inputs.batch = batch;
  inputs.sequence = sequence;
  tensors_->read(
      [&](size_t index) {
        const Tensor found = context.input(index);
        return std::pair(static_cast<const float *>(found.data), found.dims);
      },
      [&](const std::vector<int64_t> &dims, const char *name, const std::string &expected) {
        context.fail(std::string(name) + " has shape " + shape_text(dims) + ", expected " + expected);
      },
      inputs);
  sd_error error{};
  if (sd_layer_run(layer_.get(), &inputs, static_cast<float *>(y), context.pool.get(), &error)) {
    context.fail(error.message, kFail);
  }
}

void SparseEncoderLayer::infer(ShapeInference &shapes) {
  std::vector<Dimension> dims = shapes.input(0);
  if (dims.empty()) return;  // unknown if the graph has no shape of X
  const int64_t tokens = shapes.whole_number("output_tokens", 0);
  if (tokens && dims.size() == 3) {
    Dimension &sequence = dims[1];
    if (tokens == 1 || sequence.value > tokens)
      sequence = {tokens, ""};
    else if (sequence.value < 0)
      return;  // the smaller of the two numbers has no name
  }
  shapes.output(dims);
}

}  // namespace ort
