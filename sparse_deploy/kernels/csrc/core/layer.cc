// SPDX-License-Identifier: Apache-2.0
#include "layer.h"

#include <cmath>
#include <stdexcept>

#include "batch.h"
#include "layer_schedule.h"
#include "sort_rows.h"
#include "stored_weight.h"

namespace sd {
namespace {

constexpr const char *kLinearNames[SD_LINEARS] = {"query",          "key",          "value",
                                                  "attention output", "intermediate", "output"};

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
  if (output_tokens && unpadded_output) return "an unpadded output holds all tokens; found output_tokens beside it";
  attention_scale = config.attention_scale;
  position_bias = config.position_bias != 0;
  if (attention_scale == 0) attention_scale = 1.0f / std::sqrt(static_cast<float>(head_size()));
  if (!(attention_scale > 0) || !std::isfinite(attention_scale))
    return "attention_scale must be a positive number; found " + std::to_string(config.attention_scale);
  if (!(config.output_epsilon >= 0) || !std::isfinite(config.output_epsilon))
    return "output_epsilon must be 0 or more; found " + std::to_string(config.output_epsilon);
  Rows rows[SD_LINEARS];
  for (int i = 0; i < SD_LINEARS; ++i) {
    const auto &c = config.linears[i];
    Matrix &matrix = rows[i].matrix;
    const std::string problem = read_stored_weight(c.blob, c.blob_size, matrix);
    if (!problem.empty()) return std::string(kLinearNames[i]) + ": " + problem;
    const int64_t n = i == SD_INTERMEDIATE ? intermediate : hidden, k = i == SD_OUTPUT ? intermediate : hidden;
    if (matrix.n != n || matrix.k != k)
      return std::string(kLinearNames[i]) + ": expected a weight of " + std::to_string(n) + " x " + std::to_string(k) +
             ", found " + std::to_string(matrix.n) + " x " + std::to_string(matrix.k);
    rows[i].scale.assign(c.scale, c.scale + n);
    rows[i].bias.assign(static_cast<size_t>(n), 0);
    if (c.bias) rows[i].bias.assign(c.bias, c.bias + n);
  }
  sort_rows(rows, attention_position, output_position);
  for (int i = 0; i < SD_LINEARS; ++i) {
    const std::string problem =
        build_linear(rows[i].matrix, rows[i].scale.data(), rows[i].bias.data(),
                     i == SD_INTERMEDIATE ? config.activation : SD_ACTIVATION_NONE,
                     config.quantization[i <= SD_VALUE ? 0 : i - SD_VALUE], nullptr, *set, linears[i]);
    if (!problem.empty()) return std::string(kLinearNames[i]) + ": " + problem;
  }
  const auto copy = [&](const float *from) { return std::vector<float>(from, from + hidden); };
  attention_gamma = copy(config.attention_gamma);
  attention_beta = copy(config.attention_beta);
  output_gamma = copy(config.output_gamma);
  output_beta = copy(config.output_beta);
  attention_norm = {attention_gamma.data(), attention_beta.data(), config.epsilon};
  output_norm = {output_gamma.data(), output_beta.data(),
                 config.output_epsilon > 0 ? config.output_epsilon : config.epsilon};
  return "";
}

void EncoderLayer::run(const float *x, const int64_t *mask, int64_t batch_size, int64_t sequence, const float *bias,
                       int64_t bias_batch, float *y, const sd_pool *pool) const {
  if (batch_size <= 0 || sequence <= 0) return;
  if (position_bias && (!bias || (bias_batch != 1 && bias_batch != batch_size)))
    throw std::invalid_argument("the layer needs a position bias for 1 or " + std::to_string(batch_size) + " sequences");
  const Batch batch(mask, batch_size, sequence, output_tokens);
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
  LayerCall call{*this, batch, int8, x, x, y, nullptr, qkv_stride(*this), nullptr, nullptr,
                 position_bias ? bias : nullptr, bias_batch};
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
