// SPDX-License-Identifier: Apache-2.0
// All weights, including zeros. 64 rows per group; a step is 4 k of each: [64 rows][4 k].
#include "../matrix.h"
#include "layout.h"
#include "streams.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kRows = 64, kStep = kRows * 4;

struct Walk {
  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t step = p.first[g], k = 0; step < p.first[g + 1]; ++step, k += 4)
      for (int i = 0; i < kStep; ++i) visit(i / 4, k + i % 4, static_cast<int8_t>(p.data[step * kStep + i]));
  }
};

double expected_fill(const Survey &) { return 1; }

const char *pack(const Matrix &m, const Survey &, const PackRules &, Streams &streams) {
  const int64_t steps = (m.k + 3) / 4;
  for (int64_t row = 0; row < m.n; row += kRows) {
    size_t at = streams.add(static_cast<size_t>(steps) * kStep);
    for (int64_t k = 0; k < steps * 4; k += 4)
      for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < 4; ++i) streams.put(at++, m.at(row + r, k + i));
    streams.end_group(steps);
  }
  return nullptr;
}

}  // namespace

const Layout kDense = {"dense", kRows, kStep, kStep, expected_fill, pack, unpack_by<Walk>, multiply_by<Walk>};

}  // namespace sd
