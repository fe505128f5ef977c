// SPDX-License-Identifier: Apache-2.0
// Packs an int8 matrix in the layout that multiplies fastest on an instruction set, and unpacks it.
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

// `layout`: "" or null chooses by the costs of the instruction set; a name forces this layout, with the reference
// product if the set has no kernel for it. Returns "" or the reason why the layout cannot represent the matrix.
std::string pack(const Matrix &matrix, const char *layout, const InstructionSet &set, Weight &weight);

// Unpacks the matrix, row-major.
void unpack(const Packed &packed, int8_t *w);

}  // namespace sd
