// SPDX-License-Identifier: Apache-2.0
// From an int8 matrix to the layout that multiplies fastest on this CPU, and back.
#pragma once

#include <string>
#include <vector>

#include "compact.h"
#include "memory.h"
#include "types.h"

namespace sd {

// A packed weight with the memory it owns.
struct Weight {
  Packed packed{};
  Block memory;
  size_t bytes = 0;
  std::vector<int32_t> row_sum;  // [n]
  int64_t nonzeros = 0;
  double fill = 1;               // slots / (n * k)
  double cost = 1;               // predicted time / that of kDense
  const char *pattern = "dense";
};

const char *layout_name(Layout layout);

// "dense", "unstructured", "1:2", "block_4x1" or "block_1x4".
const char *find_pattern(const Matrix &matrix);

// `layout`: "" lets the cost model of the instruction set choose; a name forces that layout.
// Returns "" or why the matrix can't have it.
std::string pack(const Matrix &matrix, const char *layout, const Kernels &kernels, Weight &weight);

// The matrix back from its packed form, row-major.
void unpack(const Packed &packed, int8_t *w);

}  // namespace sd
