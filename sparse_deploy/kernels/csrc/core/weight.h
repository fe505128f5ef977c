// SPDX-License-Identifier: Apache-2.0
// From an int8 matrix to the layout that multiplies fastest on an instruction set, and back.
#pragma once

#include <string>
#include <vector>

#include "instruction_set.h"
#include "matrix.h"
#include "memory.h"

namespace sd {

// A packed weight with its memory and its kernel.
struct Weight {
  const InstructionSet *set = nullptr;
  LayoutKernel kernel{};
  Packed packed{};
  Block memory;
  size_t bytes = 0;
  std::vector<int32_t> row_sum;  // [n]
  int64_t nonzeros = 0;
  double fill = 1;               // slots / (n * k)
  double cost = 1;               // predicted time / that of the set's dense kernel
  const char *pattern = "dense";
};

// Names of all layouts, separated by commas.
std::string layout_names();

// `layout`: "" or null lets the costs of the instruction set choose; a name forces that layout, by the reference
// product where the set has no kernel for it. Returns "" or why the matrix can't have it.
std::string pack(const Matrix &matrix, const char *layout, const InstructionSet &set, Weight &weight);

// The matrix back from its packed form, row-major.
void unpack(const Packed &packed, int8_t *w);

}  // namespace sd
