// SPDX-License-Identifier: Apache-2.0
#include "layer_steps.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace sd {
namespace {

constexpr int64_t kChunk = 64;

int64_t chunks_of(int64_t columns) { return (columns + kChunk - 1) / kChunk; }

// Normalizes rows that a product wrote, in the original column order. If the product's columns are sorted, LayerNorm
// restores the order and adds the residual; otherwise the product has already added it.
void normalize(const LayerCall &call, const float *x, const float *residual, const std::vector<int32_t> &position,
               const LayerNorm &norm, int64_t rows, float *row, float *y) {
  const int64_t hidden = call.layer.hidden;
  const Reordered order{position.empty() ? nullptr : position.data(), residual, hidden, row};
  call.layer.set->layer_norm(x, order, rows, hidden, norm, y);
}

// `rows` rows of a product's input, starting at row `row` of t.
void quantize(const LayerCall &call, const void *x, bool reduced, int64_t stride, int linear, const Tensors &t,
              int64_t row, int64_t rows) {
  const LinearWeights &l = call.layer.linears[linear];
  const int64_t to = activation_stride(l.k());
  call.layer.set->quantize(x, reduced, stride, rows, l.k(), l.quantization.scale, l.quantization.zero_point,
                           t.a.x + row * to, to, t.a.scale + row, t.a.shift + row);
}
void quantize(const LayerCall &call, const void *x, bool reduced, int64_t stride, int linear, const Tensors &t) {
  quantize(call, x, reduced, stride, linear, t, 0, t.rows);
}

// The LayerNorm before a product; its rows are those of x.
void quantize_normalized(const LayerCall &call, const float *x, const LayerNorm &norm, int linear, const Tensors &t) {
  const int64_t hidden = call.layer.hidden;
  for (int64_t r = 0; r < t.rows; ++r) {
    call.layer.set->layer_norm(x + r * hidden, {}, 1, hidden, norm, t.row);
    quantize(call, t.row, false, hidden, linear, t, r, 1);
  }
}

// Rows that a product wrote, without a LayerNorm after it: in the original order, plus the residual, which may be y.
void finish_rows(const LayerCall &call, const float *x, const float *residual, const std::vector<int32_t> &position,
                 int64_t rows, float *row, float *y) {
  const int64_t hidden = call.layer.hidden;
  const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
  if (position.empty()) {  // the product has already added it
    if (x != y) std::memcpy(y, x, static_cast<size_t>(rows) * bytes);
    return;
  }
  for (int64_t r = 0; r < rows; ++r, x += hidden, residual += hidden, y += hidden) {
    call.layer.set->restore(x, {position.data(), residual, hidden, row}, hidden);
    std::memcpy(y, row, bytes);
  }
}

// Chunks [begin, end) of a product of rows [from, to). Its last columns prefetch the weights of `next`.
void product(const LinearWeights &l, int64_t begin, int64_t end, const Destination &to, const Tensors &t, int64_t row,
             int64_t stop, const LinearWeights *next) {
  const int64_t stride = activation_stride(l.k());
  const Activations a{t.a.x + row * stride, stride, t.a.scale + row, t.a.shift + row};
  multiply(l, a, stop - row, begin * kChunk, end * kChunk, to, next ? &next->weight.packed : nullptr);
}
void product(const LinearWeights &l, int64_t begin, int64_t end, const Destination &to, const Tensors &t,
             const LinearWeights *next = nullptr) {
  product(l, begin, end, to, t, 0, t.rows, next);
}

// The chunks of `share` in part i of a step of several products with `chunks` chunks each.
struct Chunks {
  int64_t begin, end;
};
Chunks chunks_in_part(const Share &share, int64_t i, int64_t chunks) {
  return {std::max(share.chunk_begin - i * chunks, int64_t{0}), std::min(share.chunk_end - i * chunks, chunks)};
}

// Splits tokens [from, to) into runs: calls run(begin, end, whether the output has these tokens).
template <typename Run>
void for_runs(const Batch &batch, int64_t from, int64_t to, Run run) {
  if (!batch.trimmed()) return run(from, to, true);
  size_t b = static_cast<size_t>(std::upper_bound(batch.first.begin(), batch.first.end(), from) -
                                 batch.first.begin() - 1);
  for (; from < to; ++b) {
    const int64_t in_output = batch.first[b] + batch.output_first[b + 1] - batch.output_first[b];
    const int64_t middle = std::min(to, std::max(from, in_output)), end = std::min(to, batch.first[b + 1]);
    if (from < middle) run(from, middle, true);
    if (middle < end) run(middle, end, false);
    from = end;
  }
}

// ---- the steps ----------------------------------------------------------------------------------------------------

void quantize_input(const LayerCall &call, const Share &, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const float *x = call.x + t.first * layer.hidden;
  if (layer.norm_first && layer.norm_attention)
    quantize_normalized(call, x, layer.attention_norm, SD_QUERY, t);
  else
    quantize(call, x, false, layer.hidden, SD_QUERY, t);
}

void query_key_value(const LayerCall &call, const Share &share, const Tensors &t) {
  const int64_t hidden = call.layer.hidden, chunks = chunks_of(hidden);
  for (int i = 0; i < 3; ++i) {
    const auto [begin, end] = chunks_in_part(share, i, chunks);
    if (begin >= end) continue;
    // Clang before 16 can't capture structured bindings.
    const auto multiply_rows = [&, begin = begin, end = end](int64_t from, int64_t to) {
      uint8_t *y = call.qkv + static_cast<size_t>(from * call.qkv_stride + i * hidden) * call.layer.set->reduced_size;
      product(call.layer.linears[SD_QUERY + i], begin, end, {kReduced, y, call.qkv_stride}, t, from - t.first,
              to - t.first, &call.layer.linears[SD_QUERY + i + 1]);
    };
    if (i != SD_QUERY)
      multiply_rows(t.first, t.first + t.rows);
    else  // only for the rows of the output
      for_runs(call.batch, t.first, t.first + t.rows, [&](int64_t from, int64_t to, bool in_output) {
        if (in_output) multiply_rows(from, to);
      });
  }
}

// Applies the rotary positions to queries and keys of tokens [from, to).
void rotate(const LayerCall &call, int64_t from, int64_t to, bool queries) {
  const EncoderLayer &layer = call.layer;
  const std::vector<int64_t> &first = call.batch.first;
  const int64_t left_out = queries ? 0 : 1, head = layer.head_size();
  size_t b = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), from) - first.begin() - 1);
  for (int64_t token = from; token < to; ++token) {
    while (token >= first[b + 1]) ++b;
    const int64_t position = token - first[b];
    layer.set->rotate(
        call.qkv + static_cast<size_t>(token * call.qkv_stride + left_out * layer.hidden) * layer.set->reduced_size,
        (2 - left_out) * layer.heads, head, call.cos + position * head, call.sin + position * head);
  }
}

void quantize_heads(const LayerCall &call, const Share &share, const Tensors &) {
  const EncoderLayer &layer = call.layer;
  if (layer.rotary)
    for_runs(call.batch, share.row_begin, share.row_end,
             [&](int64_t from, int64_t to, bool in_output) { rotate(call, from, to, in_output); });
  if (!call.int8_attention) return;
  const int64_t hidden = layer.hidden, heads = layer.heads;
  for_runs(call.batch, share.row_begin, share.row_end, [&](int64_t from, int64_t to, bool in_output) {
    const int64_t left_out = in_output ? 0 : 1;  // the query
    layer.set->quantize_heads(
        call.qkv + static_cast<size_t>(from * call.qkv_stride + left_out * hidden) * layer.set->reduced_size,
        call.qkv_stride, to - from, (3 - left_out) * heads, layer.head_size(), in_output ? heads : 0,
        call.qkv8 + (from * 3 + left_out) * hidden, 3 * hidden, call.qkv8_scale + (from * 3 + left_out) * heads,
        3 * heads);
  });
}

// Rows [row, stop) of the output, of sequence b, head h.
void attend(const LayerCall &call, int64_t b, int64_t h, int64_t row, int64_t stop, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const Batch &batch = call.batch;
  const int64_t begin = batch.first[static_cast<size_t>(b)], asked = batch.output_first[static_cast<size_t>(b)];
  const int64_t tokens = batch.first[static_cast<size_t>(b) + 1] - begin;
  // The keys inside the window of these rows, from the start of a block of penalties.
  int64_t first_key = 0, keys = tokens;
  if (layer.window) {
    first_key = std::max(row - asked - layer.window, int64_t{0}) / 64 * 64;
    keys = std::min(tokens, stop - asked + layer.window) - first_key;
  }
  const int64_t hidden = layer.hidden, heads = layer.heads, head = layer.head_size(), stride = context_stride(layer);
  const float *penalty = &batch.penalty[static_cast<size_t>(b * batch.padded + first_key)];
  const float scale = layer.attention_scale;
  const float *bias = nullptr;
  if (call.bias)
    bias = call.bias + ((call.bias_batch > 1 ? b : 0) * heads + h) * batch.sequence * batch.sequence + first_key;
  const size_t reduced = layer.set->reduced_size;
  void *out = t.context + static_cast<size_t>((row - t.first) * stride + h * head) * reduced;
  if (call.int8_attention) {
    const uint8_t *q = call.qkv8 + begin * 3 * hidden + h * head, *k = q + first_key * 3 * hidden + hidden;
    const float *q_scale = call.qkv8_scale + begin * 3 * heads + h, *k_scale = q_scale + first_key * 3 * heads + heads;
    layer.set->attention_int8({q, k, k + hidden, 3 * hidden, q_scale, k_scale, k_scale + heads, 3 * heads, keys, penalty,
                               row - asked, stop - asked, head, scale, out, stride, t.scratch, bias, batch.sequence,
                               first_key, layer.window, layer.window ? t.row[h] : 0});
    return;
  }
  const uint8_t *q = call.qkv + static_cast<size_t>(begin * call.qkv_stride + h * head) * reduced;
  const uint8_t *k = q + static_cast<size_t>(first_key * call.qkv_stride + hidden) * reduced;
  layer.set->attention({q, k, k + static_cast<size_t>(hidden) * reduced, call.qkv_stride, keys, penalty, row - asked,
                        stop - asked, head, scale, out, stride, t.scratch, bias, batch.sequence, first_key,
                        layer.window});
}

// The largest scale of a sequence's values without padding, for each head of the share. With a window, a call for part
// of a sequence reads only some keys, and the result must not depend on the distribution of rows.
void find_largest_values(const LayerCall &call, int64_t b, const Share &share, float *largest) {
  const Batch &batch = call.batch;
  const int64_t heads = call.layer.heads, begin = batch.first[static_cast<size_t>(b)];
  const int64_t tokens = batch.first[static_cast<size_t>(b) + 1] - begin;
  std::fill(largest + share.head_begin, largest + share.head_end, 0.0f);
  const float *scale = call.qkv8_scale + (begin * 3 + 2) * heads;
  for (int64_t i = 0; i < tokens; ++i, scale += 3 * heads) {
    if (batch.penalty[static_cast<size_t>(b * batch.padded + i)] != 0) continue;
    for (int64_t h = share.head_begin; h < share.head_end; ++h)
      largest[h] = scale[h] > largest[h] ? scale[h] : largest[h];
  }
}

void attention(const LayerCall &call, const Share &share, const Tensors &t) {
  const std::vector<int64_t> &first = call.batch.output_first;
  int64_t b = std::upper_bound(first.begin(), first.end(), share.row_begin) - first.begin() - 1;
  for (int64_t row = share.row_begin; row < share.row_end; ++b) {
    const int64_t stop = std::min(share.row_end, first[static_cast<size_t>(b) + 1]);
    if (call.layer.window && call.int8_attention) find_largest_values(call, b, share, t.row);
    for (int64_t h = share.head_begin; h < share.head_end; ++h) attend(call, b, h, row, stop, t);
    row = stop;
  }
}

void quantize_context(const LayerCall &call, const Share &, const Tensors &t) {
  quantize(call, t.context, true, context_stride(call.layer), SD_ATTENTION_OUTPUT, t);
}

void attention_output(const LayerCall &call, const Share &share, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const float *residual = layer.attention_position.empty() ? call.residual + t.first * layer.hidden : nullptr;
  product(layer.linears[SD_ATTENTION_OUTPUT], share.chunk_begin, share.chunk_end,
          {kFloat, t.attended, layer.hidden, residual, layer.hidden}, t, &layer.linears[SD_INTERMEDIATE]);
}

void normalize_attention(const LayerCall &call, const Share &, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const float *residual = call.residual + t.first * layer.hidden;
  if (layer.norm_first) {
    finish_rows(call, t.attended, residual, layer.attention_position, t.rows, t.row, t.hidden);
    quantize_normalized(call, t.hidden, layer.output_norm, SD_INTERMEDIATE, t);
    return;
  }
  normalize(call, t.attended, residual, layer.attention_position, layer.attention_norm, t.rows, t.row, t.hidden);
  quantize(call, t.hidden, false, layer.hidden, SD_INTERMEDIATE, t);
}

void intermediate(const LayerCall &call, const Share &share, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const LinearWeights &first = layer.linears[SD_INTERMEDIATE], &behind = layer.linears[SD_OUTPUT];
  const int64_t chunks = chunks_of(layer.intermediate), stride = wide_stride(layer);
  const Chunks activated = chunks_in_part(share, 0, chunks), factors = chunks_in_part(share, 1, chunks);
  if (activated.begin < activated.end)
    product(first, activated.begin, activated.end, {kReduced, t.wide, stride}, t, layer.gated ? &layer.gate : &behind);
  if (factors.begin < factors.end) {
    uint8_t *y = t.wide + static_cast<size_t>(layer.intermediate) * layer.set->reduced_size;
    product(layer.gate, factors.begin, factors.end, {kReduced, y, stride}, t, &behind);
  }
}

void quantize_intermediate(const LayerCall &call, const Share &, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const int64_t stride = wide_stride(layer), n = layer.intermediate;
  if (!layer.gated) return quantize(call, t.wide, true, stride, SD_OUTPUT, t);
  const size_t reduced = layer.set->reduced_size;
  for (int64_t r = 0; r < t.rows; ++r) {
    const uint8_t *x = t.wide + static_cast<size_t>(r * stride) * reduced;
    layer.set->gate(x, x + static_cast<size_t>(n) * reduced, n, t.row);
    quantize(call, t.row, false, n, SD_OUTPUT, t, r, 1);
  }
}

void output(const LayerCall &call, const Share &share, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const float *residual = layer.output_position.empty() ? t.hidden : nullptr;
  product(layer.linears[SD_OUTPUT], share.chunk_begin, share.chunk_end,
          {kFloat, t.sum, layer.hidden, residual, layer.hidden}, t);
}

void normalize_output(const LayerCall &call, const Share &share, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const int64_t at = (share.row_begin - t.first) * layer.hidden;
  const int64_t rows = share.row_end - share.row_begin;
  float *y = call.y + share.row_begin * layer.hidden;
  if (layer.norm_first)
    finish_rows(call, t.sum + at, t.hidden + at, layer.output_position, rows, t.row, y);
  else
    normalize(call, t.sum + at, t.hidden + at, layer.output_position, layer.output_norm, rows, t.row, y);
}

}  // namespace

const Step kSteps[kStepCount] = {
    {kQuantizeInput, kOwnRows, quantize_input, nullptr},
    {kQueryKeyValue, kColumns, query_key_value, [](const EncoderLayer &l) { return 3 * chunks_of(l.hidden); }},
    {kQueryKeyValue, kRows, quantize_heads, nullptr},
    {kAttention, kHeads, attention, nullptr},
    {kQuantizeAttention, kOwnRows, quantize_context, nullptr},
    {kAttentionOutput, kColumns, attention_output, [](const EncoderLayer &l) { return chunks_of(l.hidden); }},
    {kAttentionNorm, kOwnRows, normalize_attention, nullptr},
    {kIntermediate, kColumns, intermediate,
     [](const EncoderLayer &l) { return (l.gated ? 2 : 1) * chunks_of(l.intermediate); }},
    {kQuantizeIntermediate, kOwnRows, quantize_intermediate, nullptr},
    {kOutput, kColumns, output, [](const EncoderLayer &l) { return chunks_of(l.hidden); }},
    {kOutputNorm, kRows, normalize_output, nullptr},
};

bool uses_int8_attention(const EncoderLayer &layer) {
  static const bool wanted = [] {
    const char *value = std::getenv("SPARSE_DEPLOY_ATTENTION");
    return !value || std::strcmp(value, "float") != 0;
  }();
  return wanted && layer.set->attention_int8 && layer.head_size() % 16 == 0;
}

size_t attention_scratch(const LayerCall &call) {
  const InstructionSet &set = *call.layer.set;
  const auto size = call.int8_attention ? set.attention_int8_scratch : set.attention_scratch;
  return size(call.batch.longest, call.layer.head_size());
}

}  // namespace sd
