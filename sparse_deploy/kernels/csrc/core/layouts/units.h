// SPDX-License-Identifier: Apache-2.0
// Positions of the nonzero units of a group's rows, and a window that moves over them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../matrix.h"

namespace sd {

// Ascending positions of the nonzero units of each row of a group, counted in units; empty for rows past n.
using Units = std::vector<std::vector<uint16_t>>;

// `rows` rows of units of unit_rows x unit_columns weights, starting at row `row` of the matrix.
Units find_units(const Matrix &matrix, int64_t row, int rows, int unit_rows, int unit_columns);

// The window of a layout with positions relative to the window: `width` k wide, it starts at a multiple of `align` at
// or before the first k that any row still needs, and each row takes its next units inside it.
class SlidingWindow {
 public:
  // The window never exceeds the next multiple of `width` after k.
  SlidingWindow(const Units &units, int64_t k, int64_t width, int64_t align)
      : rows_(units), width_(width), align_(align), last_((k + width - 1) / width * width - width),
        next_(units.size(), 0) {}

  // False if no unit is left.
  bool move(int64_t &begin) const {
    int64_t nearest = -1;
    for (size_t r = 0; r < rows_.size(); ++r)
      if (next_[r] < rows_[r].size() && (nearest < 0 || rows_[r][next_[r]] < nearest)) nearest = rows_[r][next_[r]];
    if (nearest < 0) return false;
    begin = std::min(nearest / align_ * align_, last_);
    return true;
  }
  // One step: calls take(row, i, k) for the next units of each row inside the window, at most four.
  template <typename Take>
  void step(int64_t begin, Take take) {
    for (size_t r = 0; r < rows_.size(); ++r)
      for (size_t i = 0; i < 4 && next_[r] < rows_[r].size() && rows_[r][next_[r]] < begin + width_; ++i)
        take(r, i, rows_[r][next_[r]++]);
  }

 private:
  const Units &rows_;
  const int64_t width_, align_, last_;
  std::vector<size_t> next_;
};

}  // namespace sd
