// SPDX-License-Identifier: Apache-2.0
// Statistics of a matrix for the choice of a layout.
#pragma once

#include "../matrix.h"

namespace sd {

struct Survey {
  double zeros = 0;       // share of the weights
  double zeros_4x1 = 0;   // share of 4(out)x1(in) blocks without nonzeros
  double zeros_1x4 = 0;   // share of 1(out)x4(in) blocks without nonzeros
  bool one_of_two = false;  // no pair of neighbours along k has two nonzeros
};

Survey survey(const Matrix &matrix);

// "dense", "unstructured", "1:2", "block_4x1" or "block_1x4".
const char *find_pattern(const Survey &survey);

}  // namespace sd
