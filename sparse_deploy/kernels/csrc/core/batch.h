// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace sd {

constexpr float kMasked = -1e30f;

// A batch without the padding behind its sequences: everything but attention works on rows of tokens, and the rows of
// padding are not among them.
struct Batch {
  int64_t sequence = 0, tokens = 0, longest = 0;
  bool whole = true;              // no padding was left out
  std::vector<int64_t> first;     // [batch + 1]: first row of each sequence
  std::vector<float> penalty;     // [batch, padded]: 0, or kMasked for keys that don't count
  int64_t padded = 0;

  Batch(const int64_t *mask, int64_t batch, int64_t length);  // mask [batch, length]
  int64_t size() const { return static_cast<int64_t>(first.size()) - 1; }
};

// Rows of tokens out of x [batch, sequence, hidden], and back. Padding rows become 0: nothing reads them, but a caller
// gets no leftovers of another request.
void gather(const Batch &batch, int64_t hidden, const float *x, float *rows);
void scatter(const Batch &batch, int64_t hidden, const float *rows, float *y);

}  // namespace sd
