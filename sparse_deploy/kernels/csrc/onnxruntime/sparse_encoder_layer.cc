// SPDX-License-Identifier: Apache-2.0
#include "sparse_encoder_layer.h"

#include <algorithm>
#include <string>
#include <vector>

#include "../operators/config.h"
#include "pool.h"

namespace ort {

SparseEncoderLayer::SparseEncoderLayer(const NodeInfo &node) {
  const sd_layer_config config = operators::read_layer(node);
  hidden_ = config.hidden;
  heads_ = config.heads;
  output_tokens_ = config.output_tokens;
  position_bias_ = config.position_bias != 0;
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
  const float *bias = nullptr;
  int64_t bias_batch = 0;
  if (position_bias_) {
    const Tensor found = context.input(operators::kPositionBiasInput);
    bias_batch = operators::bias_sequences(found.dims, batch, heads_, sequence);
    if (!bias_batch) {
      context.fail("the position bias has shape " + shape_text(found.dims) + ", expected " +
                   shape_text({batch, heads_, sequence, sequence}));
    }
    bias = static_cast<const float *>(found.data);
  }
  sd_error error{};
  if (sd_layer_run(layer_.get(), static_cast<const float *>(x.data), static_cast<const int64_t *>(mask.data), batch,
                   sequence, bias, bias_batch, static_cast<float *>(y), context.pool.get(), &error)) {
    context.fail(error.message, kFail);
  }
}

void SparseEncoderLayer::infer(ShapeInference &shapes) {
  std::vector<Dimension> dims = shapes.input(0);
  if (dims.empty()) return;  // unknown, as it is where the graph says nothing of X
  const int64_t tokens = shapes.whole_number("output_tokens", 0);
  if (tokens && dims.size() == 3) {
    Dimension &sequence = dims[1];
    if (tokens == 1 || sequence.value > tokens)
      sequence = {tokens, ""};
    else if (sequence.value < 0)
      return;  // the smaller one of the two has no name
  }
  shapes.output(dims);
}

}  // namespace ort
