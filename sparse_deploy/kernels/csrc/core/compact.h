// SPDX-License-Identifier: Apache-2.0
// The compact form of a weight (docs/sparse_operators.md) read back into an int8 matrix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sd {

struct Matrix {
  int64_t n = 0, k = 0;
  std::vector<int8_t> w;  // [n, k]
};

// Returns "" or what is wrong with the blob. Never reads past its end, whatever the bytes say.
std::string read_compact(const uint8_t *blob, size_t size, Matrix &matrix);

}  // namespace sd
