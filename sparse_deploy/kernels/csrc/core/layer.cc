// SPDX-License-Identifier: Apache-2.0
#include "layer.h"

#include <cmath>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "batch.h"
#include "layer_schedule.h"
#include "sort_rows.h"
#include "stored_weight.h"

namespace sd {
namespace {

constexpr const char *kLinearNames[SD_LINEARS] = {"query",          "key",          "value",
                                                  "attention output", "intermediate", "output"};

// Concatenates the rows of `parts` matrices with equal numbers of rows.
void split_rows(const Rows &all, Rows *parts, size_t count) {
  const size_t n = static_cast<size_t>(all.matrix.n) / count, k = static_cast<size_t>(all.matrix.k);
  for (size_t i = 0; i < count; ++i) {
    const auto piece = [&](const auto &from, size_t size) {
      const auto begin = from.begin() + static_cast<int64_t>(i * size);
      return std::decay_t<decltype(from)>(begin, begin + static_cast<int64_t>(size));
    };
    parts[i] = {{static_cast<int64_t>(n), all.matrix.k, piece(all.matrix.w, n * k)}, piece(all.scale, n),
                piece(all.bias, n)};
  }
}

}  // namespace

std::string EncoderLayer::build(const sd_layer_config &config, const InstructionSet &instruction_set) {
  set = &instruction_set;
  hidden = config.hidden;
  intermediate = config.intermediate;
  heads = config.heads;
  if (heads < 1 || hidden < 1 || hidden % heads)
    return "num_heads must divide the hidden size; found " + std::to_string(heads) + " heads and " +
           std::to_string(hidden);
  if (hidden / heads % 2) return "the head size must be even; found " + std::to_string(hidden / heads);
  if (config.activation < SD_ACTIVATION_GELU || config.activation > SD_ACTIVATION_RELU)
    return "the activation must be gelu, gelu_tanh or relu";
  output_tokens = config.output_tokens;
  unpadded_input = config.unpadded_input != 0;
  unpadded_output = config.unpadded_output != 0;
  if (output_tokens < 0) return "output_tokens must be 0 or more; found " + std::to_string(output_tokens);
  if (output_tokens && unpadded_output) return "an unpadded output has all tokens; found output_tokens as well";
  attention_scale = config.attention_scale;
  position_bias = config.position_bias != 0;
  if (attention_scale == 0) attention_scale = 1.0f / std::sqrt(static_cast<float>(head_size()));
  if (!(attention_scale > 0) || !std::isfinite(attention_scale))
    return "attention_scale must be a positive number; found " + std::to_string(config.attention_scale);
  if (!(config.output_epsilon >= 0) || !std::isfinite(config.output_epsilon))
    return "output_epsilon must be 0 or more; found " + std::to_string(config.output_epsilon);
  norm_first = config.norm_first != 0;
  norm_attention = !norm_first || config.attention_gamma;
  gated = config.gated != 0;
  rotary = config.rotary != 0;
  window = config.window;
  if (window < 0) return "window must be 0 or more; found " + std::to_string(window);
  Rows rows[SD_LINEARS], gate_rows;
  for (int i = 0; i < SD_LINEARS; ++i) {
    const bool packed = config.packed_qkv && i == SD_QUERY;
    if (config.packed_qkv && (i == SD_KEY || i == SD_VALUE)) continue;
    const auto &c = config.linears[i];
    Matrix &matrix = rows[i].matrix;
    const std::string problem = read_stored_weight(c.blob, c.blob_size, matrix);
    if (!problem.empty()) return std::string(kLinearNames[i]) + ": " + problem;
    const int64_t n = i == SD_INTERMEDIATE ? (gated ? 2 : 1) * intermediate : (packed ? 3 : 1) * hidden;
    const int64_t k = i == SD_OUTPUT ? intermediate : hidden;
    if (matrix.n != n || matrix.k != k)
      return std::string(kLinearNames[i]) + ": expected a weight of " + std::to_string(n) + " x " + std::to_string(k) +
             ", found " + std::to_string(matrix.n) + " x " + std::to_string(matrix.k);
    rows[i].scale.assign(c.scale, c.scale + n);
    rows[i].bias.assign(static_cast<size_t>(n), 0);
    if (c.bias) rows[i].bias.assign(c.bias, c.bias + n);
    if (packed) split_rows(Rows(std::move(rows[i])), rows, 3);
  }
  if (gated) {
    Rows halves[2];
    split_rows(rows[SD_INTERMEDIATE], halves, 2);
    rows[SD_INTERMEDIATE] = std::move(halves[0]);
    gate_rows = std::move(halves[1]);
  }
  sort_rows(rows, gated ? &gate_rows : nullptr, attention_position, output_position);
  if (gated) {
    const std::string problem =
        build_linear(gate_rows.matrix, gate_rows.scale.data(), gate_rows.bias.data(), SD_ACTIVATION_NONE,
                     config.quantization[SD_INTERMEDIATE - SD_VALUE], nullptr, *set, gate);
    if (!problem.empty()) return std::string(kLinearNames[SD_INTERMEDIATE]) + ": " + problem;
  }
  for (int i = 0; i < SD_LINEARS; ++i) {
    const std::string problem =
        build_linear(rows[i].matrix, rows[i].scale.data(), rows[i].bias.data(),
                     i == SD_INTERMEDIATE ? config.activation : SD_ACTIVATION_NONE,
                     config.quantization[i <= SD_VALUE ? 0 : i - SD_VALUE], nullptr, *set, linears[i]);
    if (!problem.empty()) return std::string(kLinearNames[i]) + ": " + problem;
  }
  const auto copy = [&](const float *from) { return std::vector<float>(from, from + hidden); };
  if (norm_attention) {
    attention_gamma = copy(config.attention_gamma);
    attention_beta = copy(config.attention_beta);
  }
  output_gamma = copy(config.output_gamma);
  output_beta = copy(config.output_beta);
  attention_norm = {attention_gamma.data(), attention_beta.data(), config.epsilon};
  output_norm = {output_gamma.data(), output_beta.data(),
                 config.output_epsilon > 0 ? config.output_epsilon : config.epsilon};
  return "";
}

void EncoderLayer::run(const sd_layer_inputs &inputs, float *y, const sd_pool *pool) const {
  if (inputs.batch <= 0 || inputs.sequence <= 0) return;
  if (position_bias && (!inputs.bias || (inputs.bias_batch != 1 && inputs.bias_batch != inputs.batch)))
    throw std::invalid_argument("the layer needs a position bias for 1 or " + std::to_string(inputs.batch) +
                                " sequences");
  if (rotary && (!inputs.cos || !inputs.sin))
    throw std::invalid_argument("the layer needs cosines and sines of positions");
  const Batch batch(inputs.mask, inputs.batch, inputs.sequence, output_tokens);
  if (batch.longest > kMostInputs)
    throw std::length_error("a sequence of " + std::to_string(batch.longest) + " tokens: at most " +
                            std::to_string(kMostInputs) + " are supported, so that sums fit int32");
  const bool int8 = uses_int8_attention(*this);
  const bool gathers = batch.padded_input() && !unpadded_input, scatters = batch.padded_output() && !unpadded_output;
  const auto count = [](int64_t rows, int64_t columns, bool wanted = true) {
    return wanted ? static_cast<size_t>(rows * columns) : 0;
  };
  const size_t qkv_bytes = count(batch.tokens, qkv_stride(*this)) * set->reduced_size;
  const size_t int8_bytes = count(batch.tokens, 3 * hidden, int8), int8_scales = count(batch.tokens, 3 * heads, int8);
  const size_t x_rows = count(batch.tokens, hidden, gathers);
  const size_t residual_rows = count(batch.output_rows, hidden, batch.trimmed());
  const size_t y_rows = count(batch.output_rows, hidden, scatters);
  CallBuffer buffer;
  buffer->reserve(Buffer::size<uint8_t>(qkv_bytes) + Buffer::size<uint8_t>(int8_bytes) +
                  Buffer::size<float>(int8_scales) + Buffer::size<float>(x_rows) +
                  Buffer::size<float>(residual_rows) + Buffer::size<float>(y_rows) +
                  schedule_bytes(*this, batch, pool));
  const float *const x = inputs.x;
  LayerCall call{*this,   batch,   int8,    x,
                 x,       y,       nullptr, qkv_stride(*this),
                 nullptr, nullptr, position_bias ? inputs.bias : nullptr, inputs.bias_batch,
                 inputs.cos, inputs.sin};
  call.qkv = buffer->take<uint8_t>(qkv_bytes);
  call.qkv8 = buffer->take<uint8_t>(int8_bytes);
  call.qkv8_scale = buffer->take<float>(int8_scales);
  if (gathers) {
    float *rows = buffer->take<float>(x_rows);
    gather(batch, hidden, x, rows);
    call.x = call.residual = rows;
  }
  if (batch.trimmed()) {
    float *rows = buffer->take<float>(residual_rows);
    gather_output(batch, hidden, call.x, rows);
    call.residual = rows;
  }
  if (scatters) call.y = buffer->take<float>(y_rows);
  run_steps(call, *buffer, pool);
  if (scatters) scatter(batch, hidden, call.y, y);
}

}  // namespace sd
