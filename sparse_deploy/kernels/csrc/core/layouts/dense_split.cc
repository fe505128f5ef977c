// SPDX-License-Identifier: Apache-2.0
// All weights, including zeros, for CPUs without an 8-bit dot product. 16 rows per group; a step is 4 k of each, [16
// rows][4 k], and `meta` has its first k. The first part of a group has the steps in which every pair of weights (2i
// and 2i + 1 of the four) may share a saturating 16-bit lane; the second part has the other steps, which a kernel
// widens to 16 bits.
#include "../matrix.h"
#include "layout.h"
#include "narrow_window.h"
#include "streams.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kRows = 16, kStep = kRows * 4, kParts = 2;

struct Walk {
  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t step = p.first[g * kParts]; step < p.first[(g + 1) * kParts]; ++step)
      for (int i = 0; i < kStep; ++i)
        visit(i / 4, p.meta[step] + i % 4, static_cast<int8_t>(p.data[step * kStep + i]));
  }
};

double expected_fill(const Survey &) { return 1; }

const char *pack(const Matrix &m, const Survey &, const PackRules &, Streams &streams) {
  streams.parts = kParts;
  for (int64_t row = 0; row < m.n; row += kRows) {
    const auto fits = [&](int64_t k) {
      for (int64_t r = row; r < row + kRows; ++r)
        for (int64_t i = k; i < k + 4; i += 2)
          if (!lane_fits_pair(m.at(r, i), m.at(r, i + 1))) return false;
      return true;
    };
    for (const bool wanted : {true, false}) {
      int64_t steps = 0;
      for (int64_t k = 0; k < m.k; k += 4) {
        if (fits(k) != wanted) continue;
        streams.meta.push_back(static_cast<uint16_t>(k));
        size_t at = streams.add(kStep);
        for (int i = 0; i < kStep; ++i) streams.put(at++, m.at(row + i / 4, k + i % 4));
        ++steps;
      }
      streams.end_group(steps);
    }
  }
  return nullptr;
}

}  // namespace

const Layout kDenseSplit = {"dense_split", kRows, kStep, kStep, expected_fill, pack, unpack_by<Walk>, multiply_by<Walk>};

}  // namespace sd
