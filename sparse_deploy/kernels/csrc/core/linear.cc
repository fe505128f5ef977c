// SPDX-License-Identifier: Apache-2.0
#include "linear.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "profile.h"

namespace sd {
namespace {

// Number of columns whose packed weights stay in L2 while all tiles of tokens use them.
int64_t chunk_columns(const Weight &w) {
  if (w.kernel.chunk_columns) return w.kernel.chunk_columns;
  return w.packed.k > 2048 ? 64 : 128;
}

int32_t *scratch(const LayoutKernel &kernel, int64_t columns, int64_t k) {
  const int64_t count =
      kernel.scratch + kernel.scratch_per_column * round_up(columns, 64) + kernel.scratch_per_k * k;
  if (!count) return nullptr;
  static thread_local Buffer buffer;
  buffer.reserve(Buffer::size<int32_t>(static_cast<size_t>(count)));
  return buffer.take<int32_t>(static_cast<size_t>(count));
}

void multiply_columns(const Weight &weight, const Activations &x, int64_t tokens, int64_t begin, int64_t end,
                      const Epilogue &epilogue, const Packed *next) {
  const Packed &p = weight.packed;
  const LayoutKernel &kernel = weight.kernel;
  const int64_t rows = p.layout->group_rows, step_bytes = p.layout->step_bytes, lines = (step_bytes + 63) / 64;
  const int64_t tiles = (tokens + kernel.max_tokens - 1) / kernel.max_tokens;
  const auto first_step = [&](int64_t group) { return p.first[group * p.parts]; };
  for (int64_t column = begin; column < end;) {
    const int64_t stop = std::min(column + chunk_columns(weight), end);
    Tile tile{};
    tile.group_begin = static_cast<int32_t>(column / rows);
    tile.group_end = static_cast<int32_t>((stop + rows - 1) / rows);
    tile.x_stride = x.stride;
    // The passes of the tiles over this chunk prefetch the lines of the next chunk. Columns beyond `end` count as next:
    // if columns are distributed over threads, this thread most likely takes those columns next.
    const uint8_t *ahead = stop < p.n ? p.data + first_step(tile.group_end) * step_bytes : next ? next->data : nullptr;
    const int64_t steps = first_step(tile.group_end) - first_step(tile.group_begin);
    tile.prefetch_lines = static_cast<int32_t>((lines + tiles - 1) / tiles);
    tile.scratch = scratch(kernel, stop - column, p.k);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t from = tokens * i / tiles, to = tokens * (i + 1) / tiles;
      tile.x = x.x + from * x.stride;
      tile.token = from;
      tile.prefetch =
          ahead && i * tile.prefetch_lines < lines ? ahead + i * tile.prefetch_lines * steps * 64 : nullptr;
      kernel.multiply(p, tile, static_cast<int32_t>(to - from), epilogue);
    }
    column = stop;
  }
}

std::atomic<uint64_t> run_counter{0};

// The activations of a call, quantized by each thread separately: with few tokens this is cheaper than another
// synchronization of the threads.
Activations quantize_once(const LinearWeights &linear, const float *x, int64_t rows, uint64_t run) {
  static thread_local uint64_t last = ~uint64_t{0};
  static thread_local Activations held{};
  if (last == run) return held;
  Timed timed(kLinearQuantize);
  last = ~uint64_t{0};  // reserve() may fail
  const int64_t k = linear.k(), stride = activation_stride(k);
  Buffer &buffer = thread_buffer();
  buffer.reserve(Buffer::size<uint8_t>(static_cast<size_t>(rows * stride)) +
                 2 * Buffer::size<float>(static_cast<size_t>(rows)));
  held = {buffer.take<uint8_t>(static_cast<size_t>(rows * stride)), stride, buffer.take<float>(static_cast<size_t>(rows)),
          buffer.take<float>(static_cast<size_t>(rows))};
  const sd_quantization &q = linear.quantization;
  linear.weight.set->quantize(x, false, k, rows, k, q.scale, q.zero_point, held.x, stride, held.scale, held.shift);
  last = run;
  return held;
}

void tanh_columns(float *y, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) y[r * stride + c] = std::tanh(y[r * stride + c]);
}

}  // namespace

std::string build_linear(const Matrix &matrix, const float *scale, const float *bias, sd_activation activation,
                         const sd_quantization &quantization, const char *layout, const InstructionSet &set,
                         LinearWeights &linear) {
  const std::string problem = pack(matrix, layout, set, linear.weight);
  if (!problem.empty()) return problem;
  if (activation < SD_ACTIVATION_NONE || activation > SD_ACTIVATION_TANH) return "unknown activation";
  if (!(quantization.scale >= 0) || !std::isfinite(quantization.scale))
    return "the activation scale must be a finite number, 0 (dynamic) or more";
  if (quantization.zero_point < 0 || quantization.zero_point > 255) return "the zero point must be 0 ... 255";
  const size_t n = static_cast<size_t>(matrix.n), padded = static_cast<size_t>(round_up(matrix.n, 64));
  linear.scale.assign(padded, 0);
  linear.bias.assign(padded, 0);
  linear.sum.assign(padded, 0);
  for (size_t i = 0; i < n; ++i) {
    linear.scale[i] = scale ? scale[i] : 1;
    linear.bias[i] = bias ? bias[i] : 0;
    linear.sum[i] = linear.scale[i] * static_cast<float>(linear.weight.row_sum[i]);
  }
  linear.activation = activation;
  linear.quantization = quantization;
  return "";
}

bool split_by_tokens(int64_t tokens, int64_t threads) { return threads == 1 || tokens >= 8 * threads; }

int64_t token_blocks(int64_t tokens, int64_t threads) {
  constexpr int64_t kBlock = 96;
  return std::min(tokens, threads * ((tokens + threads * kBlock - 1) / (threads * kBlock)));
}

void multiply(const LinearWeights &linear, const Activations &x, int64_t tokens, int64_t begin, int64_t end,
              const Destination &to, const Packed *next) {
  Epilogue e{};
  e.output = to.output;
  e.activation = linear.activation;
  e.n = linear.n();
  e.scale = linear.scale.data();
  e.bias = linear.bias.data();
  e.sum = linear.sum.data();
  e.token_scale = x.scale;
  e.token_shift = x.shift;
  e.residual = to.residual;
  e.residual_stride = to.residual_stride;
  e.out = to.data;
  e.out_stride = to.stride;
  multiply_columns(linear.weight, x, tokens, begin, std::min(end, linear.n()), e, next);
}

void run_linear(const LinearWeights &linear, const float *x, int64_t rows, float *y, const sd_pool *pool) {
  if (rows <= 0) return;
  const int64_t n = linear.n(), k = linear.k(), threads = thread_count(pool);
  const bool tanh = linear.activation == SD_ACTIVATION_TANH;
  if (split_by_tokens(rows, threads)) {
    const int64_t blocks = token_blocks(rows, threads);
    run_phases(pool, {{blocks, [&](int64_t i) {
                         const int64_t from = rows * i / blocks, count = rows * (i + 1) / blocks - from;
                         const Activations a =
                             quantize_once(linear, x + from * k, count, ++run_counter);
                         Timed timed(kLinearMultiply);
                         multiply(linear, a, count, 0, n, {kFloat, y + from * n, n});
                         if (tanh) tanh_columns(y + from * n, n, count, n);
                       }}});
    return;
  }
  const uint64_t run = ++run_counter;
  const int64_t items = (n + 63) / 64;
  run_phases(pool, {{items, [&](int64_t i) {
                       const Activations a = quantize_once(linear, x, rows, run);
                       Timed timed(kLinearMultiply);
                       const int64_t begin = i * 64, end = std::min(begin + 64, n);
                       multiply(linear, a, rows, begin, end, {kFloat, y, n});
                       if (tanh) tanh_columns(y + begin, n, rows, end - begin);
                     }}});
}

void run_accumulators(const Weight &weight, const uint8_t *x, int64_t rows, int32_t *y, const sd_pool *pool) {
  if (rows <= 0) return;
  const Packed &p = weight.packed;
  const bool is_signed = weight.set->type == kS8;
  const int64_t stride = activation_stride(p.k), blocks = token_blocks(rows, thread_count(pool));
  run_phases(pool, {{blocks, [&](int64_t i) {
                       const int64_t from = rows * i / blocks, count = rows * (i + 1) / blocks - from;
                       Buffer &buffer = thread_buffer();
                       buffer.reserve(Buffer::size<uint8_t>(static_cast<size_t>(count * stride)));
                       uint8_t *padded = buffer.take<uint8_t>(static_cast<size_t>(count * stride));
                       for (int64_t r = 0; r < count; ++r) {
                         std::memcpy(padded + r * stride, x + (from + r) * p.k, static_cast<size_t>(p.k));
                         for (int64_t i = 0; i < p.k && is_signed; ++i) padded[r * stride + i] ^= 128;
                       }
                       Epilogue e{};
                       e.output = kInt32;
                       e.n = p.n;
                       e.out = y + from * p.n;
                       e.out_stride = p.n;
                       multiply_columns(weight, {padded, stride, nullptr, nullptr}, count, 0, p.n, e, nullptr);
                       for (int64_t i = 0; i < count * p.n && is_signed; ++i)
                         y[from * p.n + i] += 128 * weight.row_sum[static_cast<size_t>(i % p.n)];
                     }}});
}

}  // namespace sd
