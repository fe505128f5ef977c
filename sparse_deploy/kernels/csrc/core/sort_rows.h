// SPDX-License-Identifier: Apache-2.0
// Rows of a layer's matrices in the order that packs best.
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
  void reorder_columns(const std::vector<int32_t> &order);  // the same with columns
};

// Sorts the rows of the output layers, where it saves more than putting their columns back costs (2 % of a layer), and
// those of the intermediate layer, whose order nobody sees: the output layer's columns follow it, and the rows of
// `gate`, the second half of a gated layer, stay beside those of the first; null where there is none. The positions say
// where a column of the attention's output and of the output now is; they stay empty where nothing moved.
void sort_rows(Rows (&linears)[SD_LINEARS], Rows *gate, std::vector<int32_t> &attention_position,
               std::vector<int32_t> &output_position);

}  // namespace sd
