// SPDX-License-Identifier: Apache-2.0
#include "survey.h"

#include <algorithm>

namespace sd {

Survey survey(const Matrix &m) {
  const int64_t columns = (m.k + 3) / 4, rows = (m.n + 3) / 4;
  int64_t nonzero = 0, in = 0, out = 0;
  bool one_of_two = true;
  std::vector<uint8_t> any(static_cast<size_t>(m.k));
  for (int64_t n = 0; n < m.n; ++n) {
    const int8_t *w = &m.w[static_cast<size_t>(n * m.k)];
    if (n % 4 == 0) std::fill(any.begin(), any.end(), uint8_t{0});
    for (int64_t k = 0; k < m.k; ++k) {
      any[static_cast<size_t>(k)] |= w[k] != 0;
      nonzero += w[k] != 0;
    }
    for (int64_t k = 0; k + 1 < m.k && one_of_two; k += 2) one_of_two = !(w[k] && w[k + 1]);
    for (int64_t c = 0; c < columns; ++c) {
      bool kept = false;
      for (int64_t k = c * 4; k < std::min(c * 4 + 4, m.k); ++k) kept |= w[k] != 0;
      in += kept;
    }
    if (n % 4 == 3 || n + 1 == m.n)
      for (uint8_t kept : any) out += kept;
  }
  Survey found;
  found.zeros = 1 - static_cast<double>(nonzero) / static_cast<double>(m.n * m.k);
  found.zeros_1x4 = 1 - static_cast<double>(in) / static_cast<double>(m.n * columns);
  found.zeros_4x1 = 1 - static_cast<double>(out) / static_cast<double>(rows * m.k);
  found.one_of_two = one_of_two;
  return found;
}

const char *find_pattern(const Survey &found) {
  if (found.zeros < 0.05) return "dense";
  // Nearly all zeros are in whole blocks: quantization may have added single zeros to kept blocks.
  if (found.zeros_4x1 > 0.9 * found.zeros) return "block_4x1";
  if (found.zeros_1x4 > 0.9 * found.zeros) return "block_1x4";
  // With more zeros 1:2 is a coincidence in an almost empty matrix.
  return found.one_of_two && found.zeros < 0.6 ? "1:2" : "unstructured";
}

}  // namespace sd
