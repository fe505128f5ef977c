// SPDX-License-Identifier: Apache-2.0
#include "batch.h"

#include <algorithm>
#include <cstring>

#include "types.h"

namespace sd {

Batch::Batch(const int64_t *mask, int64_t batch, int64_t length, int64_t output_tokens)
    : sequence(length), output_sequence(output_tokens ? std::min(output_tokens, length) : length), first(1, 0),
      output_first(1, 0) {
  padded = round_up(length, 64);
  penalty.assign(static_cast<size_t>(batch * padded), kMasked);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t *row = mask + b * length;
    int64_t count = length;
    while (count && !row[count - 1]) --count;
    const bool none = count == 0;
    if (none) count = length;
    for (int64_t i = 0; i < count; ++i)
      if (none || row[i]) penalty[static_cast<size_t>(b * padded + i)] = 0;
    first.push_back(first.back() + count);
    output_first.push_back(output_first.back() + std::min(count, output_sequence));
    longest = std::max(longest, count);
  }
  tokens = first.back();
  output_rows = output_first.back();
}

void gather(const Batch &batch, int64_t hidden, const float *x, float *rows) {
  for (int64_t b = 0; b < batch.size(); ++b) {
    const int64_t begin = batch.first[static_cast<size_t>(b)], count = batch.first[static_cast<size_t>(b) + 1] - begin;
    std::memcpy(rows + begin * hidden, x + b * batch.sequence * hidden,
                static_cast<size_t>(count * hidden) * sizeof(float));
  }
}

void gather_output(const Batch &batch, int64_t hidden, const float *rows, float *output_rows) {
  for (size_t b = 0; b + 1 < batch.first.size(); ++b) {
    const int64_t begin = batch.output_first[b], count = batch.output_first[b + 1] - begin;
    std::memcpy(output_rows + begin * hidden, rows + batch.first[b] * hidden,
                static_cast<size_t>(count * hidden) * sizeof(float));
  }
}

void scatter(const Batch &batch, int64_t hidden, const float *rows, float *y) {
  for (size_t b = 0; b + 1 < batch.first.size(); ++b) {
    const int64_t begin = batch.output_first[b], count = batch.output_first[b + 1] - begin;
    float *to = y + static_cast<int64_t>(b) * batch.output_sequence * hidden;
    std::memcpy(to, rows + begin * hidden, static_cast<size_t>(count * hidden) * sizeof(float));
    std::memset(to + count * hidden, 0,
                static_cast<size_t>((batch.output_sequence - count) * hidden) * sizeof(float));
  }
}

}  // namespace sd
