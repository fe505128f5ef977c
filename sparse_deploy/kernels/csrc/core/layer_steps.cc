// SPDX-License-Identifier: Apache-2.0
#include "layer_steps.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace sd {
namespace {

constexpr int64_t kChunk = 64;

int64_t chunks_of(int64_t columns) { return (columns + kChunk - 1) / kChunk; }

// Rows that a product wrote, normalized in their own order. Where its columns were sorted, LayerNorm puts them back and
// adds the residual; where not, the product has added it.
void normalize(const LayerCall &call, const float *x, const float *residual, const std::vector<int32_t> &position,
               const LayerNorm &norm, int64_t rows, float *row, float *y) {
  const int64_t hidden = call.layer.hidden;
  const Reordered order{position.empty() ? nullptr : position.data(), residual, hidden, row};
  call.layer.set->layer_norm(x, order, rows, hidden, norm, y);
}

void quantize(const LayerCall &call, const void *x, bool reduced, int64_t stride, int linear, const Tensors &t) {
  const LinearWeights &l = call.layer.linears[linear];
  call.layer.set->quantize(x, reduced, stride, t.rows, l.k(), l.quantization.scale, l.quantization.zero_point, t.a.x,
                           activation_stride(l.k()), t.a.scale, t.a.shift);
}

// Chunks [begin, end) of a product of rows [from, to). Its last columns prefetch the weights of `next`.
void product(const LayerCall &call, int linear, int64_t begin, int64_t end, const Destination &to, const Tensors &t,
             int64_t row, int64_t stop, int next) {
  const LinearWeights &l = call.layer.linears[linear];
  const int64_t stride = activation_stride(l.k());
  const Activations a{t.a.x + row * stride, stride, t.a.scale + row, t.a.shift + row};
  multiply(l, a, stop - row, begin * kChunk, end * kChunk, to,
           next < SD_LINEARS ? &call.layer.linears[next].weight.packed : nullptr);
}
void product(const LayerCall &call, int linear, int64_t begin, int64_t end, const Destination &to, const Tensors &t,
             int next = SD_LINEARS) {
  product(call, linear, begin, end, to, t, 0, t.rows, next);
}

// Tokens [from, to) in runs: run(begin, end, whether the output has them).
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
  const int64_t hidden = call.layer.hidden;
  quantize(call, call.x + t.first * hidden, false, hidden, SD_QUERY, t);
}

void query_key_value(const LayerCall &call, const Share &share, const Tensors &t) {
  const int64_t hidden = call.layer.hidden, chunks = chunks_of(hidden);
  for (int i = 0; i < 3; ++i) {
    const int64_t begin = std::max(share.chunk_begin - i * chunks, int64_t{0});
    const int64_t end = std::min(share.chunk_end - i * chunks, chunks);
    if (begin >= end) continue;
    const auto multiply_rows = [&](int64_t from, int64_t to) {
      uint8_t *y = call.qkv + static_cast<size_t>(from * call.qkv_stride + i * hidden) * call.layer.set->reduced_size;
      product(call, SD_QUERY + i, begin, end, {kReduced, y, call.qkv_stride}, t, from - t.first, to - t.first,
              SD_QUERY + i + 1);
    };
    if (i != SD_QUERY)
      multiply_rows(t.first, t.first + t.rows);
    else  // only the rows of the output ask
      for_runs(call.batch, t.first, t.first + t.rows, [&](int64_t from, int64_t to, bool in_output) {
        if (in_output) multiply_rows(from, to);
      });
  }
}

void quantize_heads(const LayerCall &call, const Share &share, const Tensors &) {
  if (!call.int8_attention) return;
  const EncoderLayer &layer = call.layer;
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
  const int64_t keys = batch.first[static_cast<size_t>(b) + 1] - begin;
  const int64_t hidden = layer.hidden, heads = layer.heads, head = layer.head_size(), stride = context_stride(layer);
  const float *penalty = &batch.penalty[static_cast<size_t>(b * batch.padded)];
  const float scale = layer.attention_scale;
  const float *bias = nullptr;
  if (call.bias) bias = call.bias + ((call.bias_batch > 1 ? b : 0) * heads + h) * batch.sequence * batch.sequence;
  const size_t reduced = layer.set->reduced_size;
  void *out = t.context + static_cast<size_t>((row - t.first) * stride + h * head) * reduced;
  if (call.int8_attention) {
    const uint8_t *x = call.qkv8 + begin * 3 * hidden + h * head;
    const float *scales = call.qkv8_scale + begin * 3 * heads + h;
    layer.set->attention_int8({x, x + hidden, x + 2 * hidden, 3 * hidden, scales, scales + heads, scales + 2 * heads,
                               3 * heads, keys, penalty, row - asked, stop - asked, head, scale, out, stride,
                               t.scratch, bias, batch.sequence});
    return;
  }
  const uint8_t *x = call.qkv + static_cast<size_t>(begin * call.qkv_stride + h * head) * reduced;
  const size_t to_next = static_cast<size_t>(hidden) * reduced;
  layer.set->attention({x, x + to_next, x + 2 * to_next, call.qkv_stride, keys, penalty, row - asked, stop - asked,
                        head, scale, out, stride, t.scratch, bias, batch.sequence});
}

void attention(const LayerCall &call, const Share &share, const Tensors &t) {
  const std::vector<int64_t> &first = call.batch.output_first;
  int64_t b = std::upper_bound(first.begin(), first.end(), share.row_begin) - first.begin() - 1;
  for (int64_t row = share.row_begin; row < share.row_end; ++b) {
    const int64_t stop = std::min(share.row_end, first[static_cast<size_t>(b) + 1]);
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
  product(call, SD_ATTENTION_OUTPUT, share.chunk_begin, share.chunk_end,
          {kFloat, t.attended, layer.hidden, residual, layer.hidden}, t, SD_INTERMEDIATE);
}

void normalize_attention(const LayerCall &call, const Share &, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  normalize(call, t.attended, call.residual + t.first * layer.hidden, layer.attention_position, layer.attention_norm, t.rows,
            t.row, t.hidden);
  quantize(call, t.hidden, false, layer.hidden, SD_INTERMEDIATE, t);
}

void intermediate(const LayerCall &call, const Share &share, const Tensors &t) {
  product(call, SD_INTERMEDIATE, share.chunk_begin, share.chunk_end, {kReduced, t.wide, wide_stride(call.layer)}, t,
          SD_OUTPUT);
}

void quantize_intermediate(const LayerCall &call, const Share &, const Tensors &t) {
  quantize(call, t.wide, true, wide_stride(call.layer), SD_OUTPUT, t);
}

void output(const LayerCall &call, const Share &share, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const float *residual = layer.output_position.empty() ? t.hidden : nullptr;
  product(call, SD_OUTPUT, share.chunk_begin, share.chunk_end, {kFloat, t.sum, layer.hidden, residual, layer.hidden},
          t);
}

void normalize_output(const LayerCall &call, const Share &share, const Tensors &t) {
  const EncoderLayer &layer = call.layer;
  const int64_t at = (share.row_begin - t.first) * layer.hidden;
  normalize(call, t.sum + at, t.hidden + at, layer.output_position, layer.output_norm,
            share.row_end - share.row_begin, t.row, call.y + share.row_begin * layer.hidden);
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
    {kIntermediate, kColumns, intermediate, [](const EncoderLayer &l) { return chunks_of(l.intermediate); }},
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
