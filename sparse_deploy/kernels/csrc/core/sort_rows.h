// SPDX-License-Identifier: Apache-2.0
// Sorts rows of a layer's matrices for smaller packed weights.
#pragma once

#include <cstdint>
#include <vector>

#include "matrix.h"
#include "sparse_deploy_kernels.h"

namespace sd {

// A matrix and the data of its rows.
struct Rows {
  Matrix matrix;
  std::vector<float> scale, bias;

  void reorder(const std::vector<int32_t> &order);          // row i becomes the former row order[i]
  void reorder_columns(const std::vector<int32_t> &order);  // column i becomes the former column order[i]
};

// Sorts the rows of the two output layers if this saves more than restoring the column order costs, and the rows of the
// intermediate layer, which costs nothing: the output layer's columns are reordered accordingly, and so are the rows of
// `gate`, the second half of a gated layer (or null). The positions are those of the columns of the attention's output
// and of the output; they are empty if nothing was sorted.
void sort_rows(Rows (&linears)[SD_LINEARS], Rows *gate, std::vector<int32_t> &attention_position,
               std::vector<int32_t> &output_position);

}  // namespace sd
