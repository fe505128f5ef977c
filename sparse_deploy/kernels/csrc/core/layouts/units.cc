// SPDX-License-Identifier: Apache-2.0
#include "units.h"

namespace sd {

Units find_units(const Matrix &matrix, int64_t row, int rows, int unit_rows, int unit_columns) {
  Units result(static_cast<size_t>(rows));
  const int64_t columns = (matrix.k + unit_columns - 1) / unit_columns;
  for (int r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      bool any = false;
      for (int i = 0; i < unit_rows; ++i)
        for (int j = 0; j < unit_columns; ++j)
          any |= matrix.at(row + r * unit_rows + i, c * unit_columns + j) != 0;
      if (any) result[static_cast<size_t>(r)].push_back(static_cast<uint16_t>(c));
    }
  return result;
}

}  // namespace sd
