// SPDX-License-Identifier: Apache-2.0
// Zeros at any position, for byte shuffles inside 16 bytes. 16 rows per group, which share a window or form parts of 8
// or 4 rows with separate windows. A step has a window of 16 k: `meta` has its start, and `data` has the positions
// inside it (u8) and the weights, 4 of each row.
//
// A window of 32 k needs two shuffles and fills better (0.20 of dense at 90 %, 0.28 with 16 k), but on Zen 4 its step
// costs 1.7 times as much.
#include <algorithm>

#include "../matrix.h"
#include "layout.h"
#include "narrow_window.h"
#include "streams.h"
#include "survey.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kGroupRows = 16, kWindow = 16;

template <int kRows>
struct Narrow {
  static constexpr int kParts = kGroupRows / kRows, kSlots = kRows * 4, kStep = 2 * kSlots;

  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t part = 0; part < kParts; ++part)
      for (int64_t step = p.first[g * kParts + part]; step < p.first[g * kParts + part + 1]; ++step) {
        const uint8_t *data = p.data + step * kStep;
        for (int i = 0; i < kSlots; ++i)
          visit(part * kRows + i / 4, p.meta[step] + data[i], static_cast<int8_t>(data[kSlots + i]));
      }
  }

  // Slots with random zeros at K = 768, 8 rows: 0.56 at 50 %, 0.40 at 70 %, 0.28 at 90 %. With 1:2 each window has the
  // weights of two steps.
  static double expected_fill(const Survey &survey) {
    if (survey.one_of_two && survey.zeros < 0.6) return 0.51;
    const double kept = 1 - survey.zeros;
    return std::min(1.0, (kRows == 16 ? 0.74 : kRows == 8 ? 0.70 : 0.68) * kept + (kRows == 4 ? 0.17 : 0.21));
  }

  static const char *pack(const Matrix &m, const Survey &, const PackRules &rules, Streams &streams) {
    streams.parts = kParts;
    for (int64_t row = 0; row < (m.n + kGroupRows - 1) / kGroupRows * kGroupRows; row += kRows) {
      const Units rows = find_units(m, row, kRows, 1, 1);
      NarrowWindow window(rows, m.k, kWindow);
      const auto fit = [&](size_t r, int64_t a, int64_t b) {
        const int64_t at = row + static_cast<int64_t>(r);
        return !rules.lane_weights || lane_fits_pair(m.at(at, a), m.at(at, b));
      };
      int64_t steps = 0;
      for (int64_t begin; window.move(begin); ++steps) {
        streams.meta.push_back(static_cast<uint16_t>(begin));
        const size_t start = streams.add(kStep);
        window.step(begin, fit, [&](size_t r, size_t slot, int64_t k) {
          streams.data[start + r * 4 + slot] = static_cast<uint8_t>(k - begin);
          streams.put(start + kSlots + r * 4 + slot, m.at(row + static_cast<int64_t>(r), k));
        });
      }
      streams.end_group(steps);
    }
    return nullptr;
  }

  static constexpr Layout layout(const char *name) {
    return {name, kGroupRows, kStep, kSlots, expected_fill, pack, unpack_by<Narrow>, multiply_by<Narrow>};
  }
};

}  // namespace

const Layout kUnstructuredNarrow4 = Narrow<4>::layout("unstructured_16x4");
const Layout kUnstructuredNarrow8 = Narrow<8>::layout("unstructured_16x8");
const Layout kUnstructuredNarrow16 = Narrow<16>::layout("unstructured_16x16");

}  // namespace sd
