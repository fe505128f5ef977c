// SPDX-License-Identifier: Apache-2.0
#include "sparse_encoder_layer.h"

#include <string>
#include <vector>

#include "constants.h"
#include "pool.h"

namespace ort {
namespace {

constexpr const char *kLinears[SD_LINEARS] = {"query", "key", "value", "attention output", "intermediate", "output"};
constexpr size_t kFirstLinear = 2, kFirstNorm = 20, kScales = 24;

}  // namespace

SparseEncoderLayer::SparseEncoderLayer(const NodeInfo &node) {
  sd_layer_config config{};
  config.heads = node.whole_number("num_heads");
  config.epsilon = node.number("epsilon");
  config.activation = activation(node, {"gelu", "gelu_tanh", "relu"}, nullptr);

  for (size_t i = 0; i < SD_LINEARS; ++i) {
    const size_t input = kFirstLinear + 3 * i;
    const std::string name = kLinears[i];
    const Constant<uint8_t> blob = node.bytes(input, (name + " weight").c_str());
    const Extent found = weight_extent(node, blob, name + " weight");
    if (i == SD_QUERY) config.hidden = found.n;
    if (i == SD_INTERMEDIATE) config.intermediate = found.n;
    const Extent expected{i == SD_INTERMEDIATE ? config.intermediate : config.hidden,
                          i == SD_OUTPUT ? config.intermediate : config.hidden};
    if (found.n != expected.n || found.k != expected.k) {
      node.fail(name + " weight is " + shape_text({found.n, found.k}) + ", expected " +
                shape_text({expected.n, expected.k}));
    }
    config.linears[i].blob = blob.data;
    config.linears[i].blob_size = blob.count;
    const std::string scale = name + " scale", bias = name + " bias";
    config.linears[i].scale = finite(node, node.floats(input + 1, scale.c_str(), found.n), scale);
    config.linears[i].bias = finite(node, node.floats(input + 2, bias.c_str(), found.n), bias);
  }
  if (config.heads < 1 || config.hidden % config.heads) {
    node.fail("num_heads is " + std::to_string(config.heads) + ", expected a divisor of the hidden size " +
              std::to_string(config.hidden));
  }
  const float **const norms[] = {&config.attention_gamma, &config.attention_beta, &config.output_gamma,
                                 &config.output_beta};
  constexpr const char *kNorms[] = {"attention LayerNorm gamma", "attention LayerNorm beta", "output LayerNorm gamma",
                                    "output LayerNorm beta"};
  for (size_t i = 0; i < 4; ++i) {
    *norms[i] = finite(node, node.floats(kFirstNorm + i, kNorms[i], config.hidden), kNorms[i]);
  }
  read_quantization(node, kScales, 4, config.quantization);

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
    context.fail(error.message);
  }
}

void SparseEncoderLayer::infer(ShapeInference &shapes) { shapes.output(shapes.input(0)); }

}  // namespace ort
