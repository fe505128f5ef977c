// SPDX-License-Identifier: Apache-2.0
#include "layer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "batch.h"
#include "dispatch.h"
#include "profile.h"
#include "sort_rows.h"

namespace sd {
namespace {

constexpr const char *kLinearNames[SD_LINEARS] = {"query",          "key",          "value",
                                                  "attention output", "intermediate", "output"};
constexpr int64_t kPadding = 32;  // elements added to row strides, against strides that are multiples of 4 KB

std::atomic<uint64_t> stage_counter{0};

// Whether attention multiplies in INT8: where the instruction set can, unless SPARSE_DEPLOY_ATTENTION=float asks for its
// floating-point products (bfloat16 or float).
bool int8_attention(int64_t head_size) {
  static const bool wanted = [] {
    const char *value = std::getenv("SPARSE_DEPLOY_ATTENTION");
    return !value || std::strcmp(value, "float") != 0;
  }();
  return wanted && kernels().attention_int8 && head_size % 16 == 0;
}

// The buffers of a call, shared by its threads.
struct Shared {
  uint8_t *qkv;  // compact [tokens, 3 hidden]
  int64_t qkv_stride;
  uint8_t *qkv8;        // INT8 attention: u8, s8, s8 [tokens, 3 hidden], and
  float *qkv8_scale;    // [tokens, 3 heads]
  float *x, *y;  // rows without padding; the caller's own arrays when there is none
};

// One call of a layer.
class Run {
 public:
  Run(const EncoderLayer &layer, const Batch &batch, const Shared &shared)
      : layer_(layer), batch_(batch), shared_(shared), set_(kernels()), hidden_(layer.hidden),
        wide_(layer.intermediate), head_(layer.hidden / layer.heads), int8_(int8_attention(head_)) {}

  // Tokens [from, to) of all sequences: everything up to q, k and v.
  void project(int64_t from, int64_t to) const {
    const int64_t rows = to - from;
    Buffer &buffer = thread_buffer();
    buffer.reserve(activation_bytes(rows, hidden_));
    const Activations a = take_activations(buffer, rows, hidden_);
    {
      Timed timed(kQuantizeInput);
      quantize(shared_.x + from * hidden_, false, hidden_, rows, SD_QUERY, a);
    }
    Timed timed(kQueryKeyValue);
    for (int i = SD_QUERY; i <= SD_VALUE; ++i)
      multiply(linear(i), a, rows, 0, hidden_, to_qkv(i, from), &linear(i + 1).weight.packed);
    if (int8_) quantize_qkv(from, to);
  }

  // q, k and v of tokens [from, to) in 8 bits.
  void quantize_qkv(int64_t from, int64_t to) const {
    set_.quantize_heads(shared_.qkv + static_cast<size_t>(from * shared_.qkv_stride) * set_.compact_size,
                        shared_.qkv_stride, to - from, 3 * layer_.heads, head_, layer_.heads,
                        shared_.qkv8 + from * 3 * hidden_, 3 * hidden_, shared_.qkv8_scale + from * 3 * layer_.heads,
                        3 * layer_.heads);
  }

  size_t attention_scratch() const {
    return int8_ ? set_.attention_int8_scratch(batch_.longest, head_) : set_.attention_scratch(batch_.longest, head_);
  }

  // Tokens [from, to): everything after q, k and v.
  void finish(int64_t from, int64_t to) const {
    const int64_t rows = to - from;
    const int64_t context_stride = hidden_ + kPadding, wide_stride = wide_ + kPadding;
    const size_t compact = set_.compact_size;
    Buffer &buffer = thread_buffer();
    buffer.reserve(Buffer::size<uint8_t>(static_cast<size_t>(rows * context_stride) * compact) +
                   Buffer::size<uint8_t>(static_cast<size_t>(rows * wide_stride) * compact) +
                   Buffer::size<float>(static_cast<size_t>(rows * hidden_)) +
                   Buffer::size<float>(static_cast<size_t>(hidden_)) + activation_bytes(rows, hidden_) +
                   activation_bytes(rows, wide_) + attention_scratch() + 128);
    uint8_t *context = buffer.take<uint8_t>(static_cast<size_t>(rows * context_stride) * compact);
    uint8_t *wide = buffer.take<uint8_t>(static_cast<size_t>(rows * wide_stride) * compact);
    float *inner = buffer.take<float>(static_cast<size_t>(rows * hidden_));
    float *row_buffer = buffer.take<float>(static_cast<size_t>(hidden_));
    const Activations a = take_activations(buffer, rows, hidden_);
    const Activations w = take_activations(buffer, rows, wide_);
    uint8_t *scratch = buffer.take<uint8_t>(attention_scratch());

    {
      Timed timed(kAttention);
      int64_t b = std::upper_bound(batch_.first.begin(), batch_.first.end(), from) - batch_.first.begin() - 1;
      for (int64_t row = from; row < to; ++b) {
        const int64_t stop = std::min(to, batch_.first[static_cast<size_t>(b) + 1]);
        for (int64_t h = 0; h < layer_.heads; ++h)
          attend(b, h, row, stop, context + static_cast<size_t>((row - from) * context_stride) * compact,
                 context_stride, scratch);
        row = stop;
      }
    }
    {
      Timed timed(kQuantizeAttention);
      quantize(context, true, context_stride, rows, SD_ATTENTION_OUTPUT, a);
    }
    {
      Timed timed(kAttentionOutput);
      multiply(linear(SD_ATTENTION_OUTPUT), a, rows, 0, hidden_,
               attention_destination(inner, shared_.x + from * hidden_), &linear(SD_INTERMEDIATE).weight.packed);
    }
    {
      Timed timed(kAttentionNorm);
      attention_norm(inner, shared_.x + from * hidden_, rows, row_buffer, inner);
      quantize(inner, false, hidden_, rows, SD_INTERMEDIATE, a);
    }
    {
      Timed timed(kIntermediate);
      multiply(linear(SD_INTERMEDIATE), a, rows, 0, wide_, {kCompact, wide, wide_stride},
               &linear(SD_OUTPUT).weight.packed);
    }
    {
      Timed timed(kQuantizeIntermediate);
      quantize(wide, true, wide_stride, rows, SD_OUTPUT, w);
    }
    float *y = shared_.y + from * hidden_;
    {
      Timed timed(kOutput);
      multiply(linear(SD_OUTPUT), w, rows, 0, hidden_, output_destination(y, inner));
    }
    Timed timed(kOutputNorm);
    output_norm(y, inner, rows, row_buffer, y);
  }

  // The residual is added with the product, or after it where LayerNorm must put the columns back first.
  Destination attention_destination(float *to, const float *residual) const {
    return {kFloat, to, hidden_, layer_.attention_position.empty() ? residual : nullptr, hidden_};
  }
  Destination output_destination(float *to, const float *residual) const {
    return {kFloat, to, hidden_, layer_.output_position.empty() ? residual : nullptr, hidden_};
  }
  void attention_norm(const float *x, const float *residual, int64_t rows, float *row_buffer, float *y) const {
    set_.layer_norm(x, reordered(layer_.attention_position, residual, row_buffer), rows, hidden_,
                    layer_.attention_norm, y);
  }
  void output_norm(const float *x, const float *residual, int64_t rows, float *row_buffer, float *y) const {
    set_.layer_norm(x, reordered(layer_.output_position, residual, row_buffer), rows, hidden_, layer_.output_norm, y);
  }

  // Rows [row, stop) of sequence b, head h.
  void attend(int64_t b, int64_t h, int64_t row, int64_t stop, void *context, int64_t stride, void *scratch) const {
    const int64_t begin = batch_.first[static_cast<size_t>(b)];
    const int64_t keys = batch_.first[static_cast<size_t>(b) + 1] - begin;
    const float *penalty = &batch_.penalty[static_cast<size_t>(b * batch_.padded)];
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_));
    const size_t compact = set_.compact_size;
    void *out = static_cast<uint8_t *>(context) + static_cast<size_t>(h * head_) * compact;
    if (int8_) {
      const uint8_t *x = shared_.qkv8 + begin * 3 * hidden_ + h * head_;
      const float *scales = shared_.qkv8_scale + begin * 3 * layer_.heads + h;
      set_.attention_int8({x, x + hidden_, x + 2 * hidden_, 3 * hidden_, scales, scales + layer_.heads,
                           scales + 2 * layer_.heads, 3 * layer_.heads, keys, penalty, row - begin, stop - begin,
                           head_, scale, out, stride, scratch});
      return;
    }
    const uint8_t *x = shared_.qkv + static_cast<size_t>(begin * shared_.qkv_stride + h * head_) * compact;
    set_.attention({x, x + static_cast<size_t>(hidden_) * compact, x + static_cast<size_t>(2 * hidden_) * compact,
                    shared_.qkv_stride, keys, penalty, row - begin, stop - begin, head_, scale, out, stride, scratch});
  }

  bool int8() const { return int8_; }
  const LinearWeights &linear(int i) const { return layer_.linears[i]; }

  Destination to_qkv(int i, int64_t token) const {
    return {kCompact,
            shared_.qkv + static_cast<size_t>(token * shared_.qkv_stride + (i - SD_QUERY) * hidden_) * set_.compact_size,
            shared_.qkv_stride};
  }

  void quantize(const void *x, bool compact, int64_t stride, int64_t rows, int i, const Activations &a) const {
    const sd_quantization &q = linear(i).quantization;
    set_.quantize(x, compact, stride, rows, linear(i).k(), q.scale, q.zero_point, a.x, a.stride, a.scale, a.shift);
  }

  static size_t activation_bytes(int64_t rows, int64_t k) {
    return Buffer::size<uint8_t>(static_cast<size_t>(rows * activation_stride(k))) +
           2 * Buffer::size<float>(static_cast<size_t>(rows));
  }
  static Activations take_activations(Buffer &buffer, int64_t rows, int64_t k) {
    const int64_t stride = activation_stride(k);
    uint8_t *x = buffer.take<uint8_t>(static_cast<size_t>(rows * stride));
    float *scale = buffer.take<float>(static_cast<size_t>(rows));
    return {x, stride, scale, buffer.take<float>(static_cast<size_t>(rows))};
  }

 private:
  Reordered reordered(const std::vector<int32_t> &position, const float *residual, float *row_buffer) const {
    return {position.empty() ? nullptr : position.data(), residual, hidden_, row_buffer};
  }

  const EncoderLayer &layer_;
  const Batch &batch_;
  const Shared &shared_;
  const Kernels &set_;
  const int64_t hidden_, wide_, head_;
  const bool int8_;
};

// Few tokens: the threads share out columns and heads, and meet after every product. What is cheap (LayerNorm and
// quantisation of a few rows) each of them does for itself instead of waiting.
class ColumnRun {
 public:
  ColumnRun(const Run &run, const EncoderLayer &layer, const Batch &batch, const Shared &shared, CallBuffer &call)
      : run_(run), layer_(layer), batch_(batch), shared_(shared), set_(kernels()), rows_(batch.tokens),
        stage_(stage_counter.fetch_add(8)) {
    const size_t compact = set_.compact_size;
    context_ = call->take<uint8_t>(static_cast<size_t>(rows_ * (layer.hidden + kPadding)) * compact);
    wide_ = call->take<uint8_t>(static_cast<size_t>(rows_ * (layer.intermediate + kPadding)) * compact);
    inner_ = call->take<float>(static_cast<size_t>(rows_ * layer.hidden));
    sum_ = call->take<float>(static_cast<size_t>(rows_ * layer.hidden));
  }
  static size_t bytes(const EncoderLayer &layer, int64_t rows) {
    const size_t compact = kernels().compact_size;
    return Buffer::size<uint8_t>(static_cast<size_t>(rows * (layer.hidden + kPadding)) * compact) +
           Buffer::size<uint8_t>(static_cast<size_t>(rows * (layer.intermediate + kPadding)) * compact) +
           2 * Buffer::size<float>(static_cast<size_t>(rows * layer.hidden));
  }

  void go(const sd_pool *pool) {
    const int64_t hidden = layer_.hidden;
    const int64_t columns = (hidden + 63) / 64, wide_columns = (layer_.intermediate + 63) / 64;
    run_phases(pool, {
        {3 * columns, [&](int64_t i) { project(static_cast<int>(i / columns), i % columns * 64); }},
        {run_.int8() ? std::min<int64_t>(rows_, thread_count(pool)) : 0, [&](int64_t i) { quantize_qkv(i, pool); }},
        {batch_.size() * layer_.heads, [&](int64_t i) { attend(i / layer_.heads, i % layer_.heads); }},
        {columns, [&](int64_t i) { attention_output(i * 64); }},
        {wide_columns, [&](int64_t i) { intermediate(i * 64); }},
        {columns, [&](int64_t i) { output(i * 64); }},
        {std::min<int64_t>(rows_, thread_count(pool)), [&](int64_t i) { normalize(i, thread_count(pool)); }},
    });
  }

 private:
  struct Local {
    uint64_t stage = ~uint64_t{0};
    Activations a{};
    float *h = nullptr, *row = nullptr;  // [rows, hidden] and one row
  };

  // The thread's activations for a stage, made by `make` the first time it asks.
  template <typename Make>
  const Local &local(uint64_t stage, int64_t k, Make make) const {
    static thread_local Local held;
    if (held.stage != stage_ + stage) {
      Buffer &buffer = thread_buffer();
      buffer.reserve(Run::activation_bytes(rows_, k) + Buffer::size<float>(static_cast<size_t>(rows_ * layer_.hidden)) +
                     Buffer::size<float>(static_cast<size_t>(layer_.hidden)));
      held.a = Run::take_activations(buffer, rows_, k);
      held.h = buffer.take<float>(static_cast<size_t>(rows_ * layer_.hidden));
      held.row = buffer.take<float>(static_cast<size_t>(layer_.hidden));
      make(held);
      held.stage = stage_ + stage;
    }
    return held;
  }

  void project(int i, int64_t column) const {
    const Local &l = local(0, layer_.hidden, [&](Local &made) {
      Timed timed(kQuantizeInput);
      run_.quantize(shared_.x, false, layer_.hidden, rows_, SD_QUERY, made.a);
    });
    Timed timed(kQueryKeyValue);
    multiply(run_.linear(SD_QUERY + i), l.a, rows_, column, column + 64, run_.to_qkv(SD_QUERY + i, 0));
  }

  void quantize_qkv(int64_t i, const sd_pool *pool) const {
    Timed timed(kAttention);
    const int64_t items = std::min<int64_t>(rows_, thread_count(pool));
    run_.quantize_qkv(rows_ * i / items, rows_ * (i + 1) / items);
  }

  void attend(int64_t b, int64_t h) const {
    Timed timed(kAttention);
    const int64_t begin = batch_.first[static_cast<size_t>(b)], end = batch_.first[static_cast<size_t>(b) + 1];
    const int64_t stride = layer_.hidden + kPadding;
    const size_t scratch = run_.attention_scratch();
    Buffer &buffer = thread_buffer();
    buffer.reserve(scratch);
    run_.attend(b, h, begin, end, context_ + static_cast<size_t>(begin * stride) * set_.compact_size, stride,
                buffer.take<uint8_t>(scratch));
  }

  void attention_output(int64_t column) const {
    const Local &l = local(1, layer_.hidden, [&](Local &made) {
      Timed timed(kQuantizeAttention);
      run_.quantize(context_, true, layer_.hidden + kPadding, rows_, SD_ATTENTION_OUTPUT, made.a);
    });
    Timed timed(kAttentionOutput);
    multiply(run_.linear(SD_ATTENTION_OUTPUT), l.a, rows_, column, column + 64,
             run_.attention_destination(inner_, shared_.x));
  }

  void intermediate(int64_t column) const {
    const Local &l = local(2, layer_.hidden, [&](Local &made) {
      Timed timed(kAttentionNorm);
      run_.attention_norm(inner_, shared_.x, rows_, made.row, made.h);
      run_.quantize(made.h, false, layer_.hidden, rows_, SD_INTERMEDIATE, made.a);
    });
    Timed timed(kIntermediate);
    multiply(run_.linear(SD_INTERMEDIATE), l.a, rows_, column, column + 64,
             {kCompact, wide_, layer_.intermediate + kPadding});
  }

  void output(int64_t column) const {
    const Local &l = local(3, layer_.intermediate, [&](Local &made) {
      Timed timed(kQuantizeIntermediate);
      run_.attention_norm(inner_, shared_.x, rows_, made.row, made.h);
      run_.quantize(wide_, true, layer_.intermediate + kPadding, rows_, SD_OUTPUT, made.a);
    });
    Timed timed(kOutput);
    multiply(run_.linear(SD_OUTPUT), l.a, rows_, column, column + 64,
             run_.output_destination(sum_, l.h));
  }

  void normalize(int64_t i, int64_t threads) const {
    Timed timed(kOutputNorm);
    const int64_t items = std::min(rows_, threads), from = rows_ * i / items, rows = rows_ * (i + 1) / items - from;
    const int64_t first = from * layer_.hidden;
    Buffer &buffer = thread_buffer();
    buffer.reserve(Buffer::size<float>(static_cast<size_t>(rows * layer_.hidden)) +
                   Buffer::size<float>(static_cast<size_t>(layer_.hidden)));
    float *h = buffer.take<float>(static_cast<size_t>(rows * layer_.hidden));
    float *row = buffer.take<float>(static_cast<size_t>(layer_.hidden));
    if (!layer_.output_position.empty()) run_.attention_norm(inner_ + first, shared_.x + first, rows, row, h);
    run_.output_norm(sum_ + first, h, rows, row, shared_.y + first);
  }

  const Run &run_;
  const EncoderLayer &layer_;
  const Batch &batch_;
  const Shared &shared_;
  const Kernels &set_;
  const int64_t rows_;
  const uint64_t stage_;
  uint8_t *context_, *wide_;
  float *inner_, *sum_;  // sums before the LayerNorms; sum_ is not y, which may be x
};

}  // namespace

std::string EncoderLayer::build(const sd_layer_config &config) {
  hidden = config.hidden;
  intermediate = config.intermediate;
  heads = config.heads;
  if (heads < 1 || hidden < 1 || hidden % heads)
    return "num_heads must divide the hidden size; found " + std::to_string(heads) + " heads and " +
           std::to_string(hidden);
  if (hidden / heads % 2) return "the head size must be even; found " + std::to_string(hidden / heads);
  if (config.activation < SD_ACTIVATION_GELU || config.activation > SD_ACTIVATION_RELU)
    return "the activation must be gelu, gelu_tanh or relu";
  Rows rows[SD_LINEARS];
  for (int i = 0; i < SD_LINEARS; ++i) {
    const auto &c = config.linears[i];
    Matrix &matrix = rows[i].matrix;
    const std::string problem = read_compact(c.blob, c.blob_size, matrix);
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
                     config.quantization[i <= SD_VALUE ? 0 : i - SD_VALUE], nullptr, linears[i]);
    if (!problem.empty()) return std::string(kLinearNames[i]) + ": " + problem;
  }
  const auto copy = [&](const float *from) { return std::vector<float>(from, from + hidden); };
  attention_gamma = copy(config.attention_gamma);
  attention_beta = copy(config.attention_beta);
  output_gamma = copy(config.output_gamma);
  output_beta = copy(config.output_beta);
  attention_norm = {attention_gamma.data(), attention_beta.data(), config.epsilon};
  output_norm = {output_gamma.data(), output_beta.data(), config.epsilon};
  return "";
}

void EncoderLayer::run(const float *x, const int64_t *mask, int64_t batch_size, int64_t sequence, float *y,
                       const sd_pool *pool) const {
  if (batch_size <= 0 || sequence <= 0) return;
  const Batch batch(mask, batch_size, sequence);
  const int64_t threads = thread_count(pool), rows = batch.tokens;
  const bool by_tokens = split_by_tokens(rows, threads);
  CallBuffer call;
  const int64_t qkv_stride = 3 * hidden + kPadding;
  const size_t qkv_bytes = static_cast<size_t>(rows * qkv_stride) * kernels().compact_size;
  const size_t int8_bytes = int8_attention(hidden / heads) ? static_cast<size_t>(rows * 3 * hidden) : 0;
  const size_t int8_scales = int8_bytes ? static_cast<size_t>(rows * 3 * heads) : 0;
  const size_t dense_rows = batch.whole ? 0 : static_cast<size_t>(rows * hidden);
  call->reserve(Buffer::size<uint8_t>(qkv_bytes) + Buffer::size<uint8_t>(int8_bytes) +
                Buffer::size<float>(int8_scales) + 2 * Buffer::size<float>(dense_rows) +
                (by_tokens ? 0 : ColumnRun::bytes(*this, rows)));
  Shared shared{};
  shared.qkv = call->take<uint8_t>(qkv_bytes);
  shared.qkv_stride = qkv_stride;
  shared.qkv8 = call->take<uint8_t>(int8_bytes);
  shared.qkv8_scale = call->take<float>(int8_scales);
  shared.x = const_cast<float *>(x);
  shared.y = y;
  if (!batch.whole) {
    shared.x = call->take<float>(dense_rows);
    shared.y = call->take<float>(dense_rows);
    gather(batch, hidden, x, shared.x);
  }
  const Run work(*this, batch, shared);
  if (by_tokens) {
    const int64_t blocks = token_blocks(rows, threads);
    run_phases(pool, {
        {blocks, [&](int64_t i) { work.project(rows * i / blocks, rows * (i + 1) / blocks); }},
        {blocks, [&](int64_t i) { work.finish(rows * i / blocks, rows * (i + 1) / blocks); }},
    });
  } else {
    ColumnRun(work, *this, batch, shared, call).go(pool);
  }
  if (!batch.whole) scatter(batch, hidden, shared.y, y);
}

}  // namespace sd
