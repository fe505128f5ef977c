// SPDX-License-Identifier: Apache-2.0
// A narrow window that moves over the rows of a group, for kernels that shuffle bytes inside 16 or 32 bytes; and the
// rule for weights that share a 16-bit lane in kernels without an 8-bit dot product.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "units.h"

namespace sd {

// vpmaddubsw adds two products of u8 and s8 and saturates at 16 bits: the sum must fit for every pair of activations.
inline bool lane_fits(int high, int low) { return 255 * high <= 32767 && 255 * low >= -32768; }
inline bool lane_fits_pair(int a, int b) {
  return lane_fits(std::max(a, 0) + std::max(b, 0), std::min(a, 0) + std::min(b, 0));
}

class NarrowWindow {
 public:
  // The window never exceeds the next multiple of `width` after k.
  NarrowWindow(const Units &rows, int64_t k, int64_t width)
      : rows_(rows), width_(width), last_((k + width - 1) / width * width - width), next_(rows.size(), 0) {
    for (const auto &row : rows) taken_.emplace_back(row.size(), false);
  }

  // Start of the next step's window: the first k that any row still needs. False if no unit is left.
  bool move(int64_t &begin) const {
    int64_t nearest = -1;
    for (size_t r = 0; r < rows_.size(); ++r)
      if (next_[r] < rows_[r].size() && (nearest < 0 || rows_[r][next_[r]] < nearest)) nearest = rows_[r][next_[r]];
    begin = std::min(nearest, last_);
    return nearest >= 0;
  }

  // One step: calls take(row, slot, k) for up to four units of each row inside the window. Slots 0 and 1 share a lane,
  // as do 2 and 3: fit(row, k1, k2) returns whether two units may share one. The first of the largest sets that fit is
  // taken. (A single unit always fits: |w| <= 128.)
  template <typename Fit, typename Take>
  void step(int64_t begin, Fit fit, Take take) {
    for (size_t r = 0; r < rows_.size(); ++r) {
      size_t found[kCandidates];
      int count = 0;
      for (size_t i = next_[r]; i < rows_[r].size() && count < kCandidates && rows_[r][i] < begin + width_; ++i)
        if (!taken_[r][i]) found[count++] = i;
      const auto k = [&](int candidate) -> int64_t { return rows_[r][found[candidate]]; };
      const Slots slots = choose(count, [&](int a, int b) { return fit(r, k(a), k(b)); });
      for (size_t slot = 0; slot < 4; ++slot) {
        const int candidate = slots.unit[slot];
        if (candidate < 0) continue;
        take(r, slot, k(candidate));
        taken_[r][found[candidate]] = true;
      }
      while (next_[r] < rows_[r].size() && taken_[r][next_[r]]) ++next_[r];
    }
  }

 private:
  // Candidate units of a row. Slots / dense at 70 % and K = 768: 0.409 with four candidates, 0.404 with seven.
  static constexpr int kCandidates = 7;

  struct Slots {
    int unit[4];  // a candidate, or -1
  };

  template <typename Fit>
  static Slots choose(int count, Fit fit) {
    constexpr int kPairings[3][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {0, 3, 1, 2}};
    for (int size = std::min(count, 4); size; --size) {
      int set[4] = {0, 1, 2, 3};
      for (int i = size; i < 4; ++i) set[i] = -1;
      for (bool more = true; more; more = next_set(set, size, count))
        for (const auto &pairing : kPairings) {
          const Slots slots = {{set[pairing[0]], set[pairing[1]], set[pairing[2]], set[pairing[3]]}};
          const auto fits = [&](int a, int b) { return a < 0 || b < 0 || fit(a, b); };
          if (fits(slots.unit[0], slots.unit[1]) && fits(slots.unit[2], slots.unit[3])) return slots;
        }
    }
    return {{-1, -1, -1, -1}};
  }

  // The next ascending selection of `size` of `count` numbers; false after the last.
  static bool next_set(int (&set)[4], int size, int count) {
    int i = size - 1;
    while (i >= 0 && set[i] == count - size + i) --i;
    if (i < 0) return false;
    ++set[i];
    for (int j = i + 1; j < size; ++j) set[j] = set[j - 1] + 1;
    return true;
  }

  const Units &rows_;
  const int64_t width_, last_;
  std::vector<size_t> next_;
  std::vector<std::vector<bool>> taken_;
};

}  // namespace sd
