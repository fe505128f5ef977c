// SPDX-License-Identifier: Apache-2.0
// Zeros at any position. 16 rows per group. A window of 64 k moves over the rows; `meta` has the start of each window,
// and each has 2 or 3 steps (window_steps), so that no branch depends on the data. A step is 64 positions inside the
// window (u8) and 64 weights: 4 nonzeros of each of the 16 rows.
#include <algorithm>

#include "layout.h"
#include "streams.h"
#include "survey.h"
#include "units.h"
#include "walk.h"

namespace sd {
namespace {

// A window starts at a multiple of 8: any start would fill only 0.3 % better.
constexpr int kRows = 16, kWindow = 64, kAlign = 8, kSlots = kRows * 4, kStep = 2 * kSlots;

struct Walk {
  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t step = p.first[g]; step < p.first[g + 1]; ++step)
      for (int i = 0; i < kSlots; ++i)
        visit(i / 4, p.meta[step / p.window_steps] + p.data[step * kStep + i],
              static_cast<int8_t>(p.data[step * kStep + kSlots + i]));
  }
};

double expected_fill(const Survey &survey) { return std::min(1.0, (1 - survey.zeros) * 1.05 + 0.03); }

// With few nonzeros a window cannot fill three steps. Slots / dense for random zeros at K = 768: 2 steps 0.340 for 70 %
// and 0.163 for 90 %, 3 steps 0.350 and 0.200; a data-dependent number of steps needs 0.345 and 0.148, but loses more
// by mispredicted branches.
const char *pack(const Matrix &m, const Survey &survey, const PackRules &, Streams &streams) {
  const int window_steps = survey.zeros < 0.55 ? 3 : 2;
  streams.window_steps = window_steps;
  for (int64_t row = 0; row < m.n; row += kRows) {
    const Units rows = find_units(m, row, kRows, 1, 1);
    SlidingWindow window(rows, m.k, kWindow, kAlign);
    int64_t steps = 0;
    for (int64_t begin; window.move(begin); steps += window_steps) {
      streams.meta.push_back(static_cast<uint16_t>(begin));
      for (int s = 0; s < window_steps; ++s) {
        const size_t start = streams.add(kStep);
        window.step(begin, [&](size_t r, size_t i, int64_t k) {
          streams.data[start + r * 4 + i] = static_cast<uint8_t>(k - begin);
          streams.put(start + kSlots + r * 4 + i, m.at(row + static_cast<int64_t>(r), k));
        });
      }
    }
    streams.end_group(steps);
  }
  return nullptr;
}

}  // namespace

const Layout kUnstructured = {"unstructured", kRows, kStep, kSlots,
                              expected_fill,  pack,  unpack_by<Walk>, multiply_by<Walk>};

}  // namespace sd
