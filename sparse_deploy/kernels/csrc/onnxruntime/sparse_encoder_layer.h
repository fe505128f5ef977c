// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sparse_deploy_kernels.h>

#include <memory>
#include <optional>

#include "../operators/config.h"
#include "node.h"
#include "operator.h"

namespace ort {

struct LayerDelete {
  void operator()(sd_layer *layer) const { sd_layer_destroy(layer); }
};

// One encoder layer; docs/sparse_operators.md.
class SparseEncoderLayer {
 public:
  static constexpr const char *kName = "SparseEncoderLayer";
  static constexpr Input kInputs[] = {
      {kFloat, kRequired}, {kInt64, kRequired},                       // X, mask
      {kUint8, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},  // query: weight, scale, bias
      {kUint8, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},  // key
      {kUint8, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},  // value
      {kUint8, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},  // attention output
      {kUint8, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},  // intermediate
      {kUint8, kRequired}, {kFloat, kRequired}, {kFloat, kRequired},  // output
      {kFloat, kRequired}, {kFloat, kRequired},                       // attention LayerNorm: gamma, beta
      {kFloat, kRequired}, {kFloat, kRequired},                       // output LayerNorm
      {kFloat, kOptional}, {kUint8, kOptional},                       // x_scale, x_zero_point
      {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}}; // position bias, cos, sin: as far as used
  static constexpr bool kInPlace = true;

  explicit SparseEncoderLayer(const NodeInfo &node);
  void run(RunContext &context) const;
  static void infer(ShapeInference &shapes);

 private:
  int64_t hidden_, output_tokens_;
  std::optional<operators::LayerTensors> tensors_;
  std::unique_ptr<sd_layer, LayerDelete> layer_;
};

}  // namespace ort
