// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace sd {

constexpr float kMasked = -1e30f;

// A batch without the padding after its sequences: all steps except attention compute rows of tokens, without the rows
// of padding. The output may contain only the first tokens of each sequence.
struct Batch {
  int64_t sequence = 0, tokens = 0, longest = 0;
  int64_t output_sequence = 0, output_rows = 0;  // output: sequence length with padding, rows without padding
  std::vector<int64_t> first;         // [batch + 1]: first row of each sequence
  std::vector<int64_t> output_first;  // [batch + 1]: first output row of each sequence
  std::vector<float> penalty;     // [batch, padded]: 0, or kMasked for padding
  int64_t padded = 0;

  // mask [batch, length]; output_tokens: number of tokens per sequence in the output, 0 for all
  Batch(const int64_t *mask, int64_t batch, int64_t length, int64_t output_tokens);
  int64_t size() const { return static_cast<int64_t>(first.size()) - 1; }
  bool padded_input() const { return tokens != size() * sequence; }
  bool padded_output() const { return output_rows != size() * output_sequence; }
  bool trimmed() const { return output_rows != tokens; }
};

// Copies the rows of tokens out of x [batch, sequence, hidden].
void gather(const Batch &batch, int64_t hidden, const float *x, float *rows);
// Copies the rows of tokens that are in the output.
void gather_output(const Batch &batch, int64_t hidden, const float *rows, float *output_rows);
// Copies rows of the output to y [batch, output_sequence, hidden]. Padding rows are set to 0, so that a caller never
// gets data of another request.
void scatter(const Batch &batch, int64_t hidden, const float *rows, float *y);

}  // namespace sd
