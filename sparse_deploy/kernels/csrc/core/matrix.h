// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sd {

// An int8 weight [n, k], row-major: n output channels, k input channels.
struct Matrix {
  int64_t n = 0, k = 0;
  std::vector<int8_t> w;

  // 0 outside the matrix.
  int8_t at(int64_t row, int64_t column) const {
    return row < n && column < k ? w[static_cast<size_t>(row * k + column)] : int8_t{0};
  }
};

}  // namespace sd
