// SPDX-License-Identifier: Apache-2.0
// 1:2, one of every two neighbours along k is kept. 16 rows per group. Per 64 k: 64 bytes of bits (bit `step`: the kept
// one), then 8 steps of 64 weights: 4 pairs of each of the 16 rows.
#include "../matrix.h"
#include "layout.h"
#include "streams.h"
#include "survey.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kRows = 16, kSlots = kRows * 4, kSteps = 8, kWindow = (1 + kSteps) * kSlots;

struct Walk {
  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    int64_t k = 0;
    for (int64_t step = p.first[g]; step < p.first[g + 1]; ++step, k += 8) {
      const uint8_t *window = p.data + step / kSteps * kWindow;
      const int s = static_cast<int>(step % kSteps);
      for (int i = 0; i < kSlots; ++i)
        visit(i / 4, k + i % 4 * 2 + (window[i] >> s & 1), static_cast<int8_t>(window[(1 + s) * kSlots + i]));
    }
  }
};

double expected_fill(const Survey &survey) { return survey.one_of_two ? 0.5 : 1e9; }

const char *pack(const Matrix &m, const Survey &survey, const PackRules &, Streams &streams) {
  if (!survey.one_of_two) return "a pair of neighbours along k keeps two weights";
  const int64_t windows = (m.k + 63) / 64;
  for (int64_t row = 0; row < m.n; row += kRows) {
    for (int64_t w = 0; w < windows; ++w) {
      const size_t start = streams.add(kWindow);
      for (int s = 0; s < kSteps; ++s)
        for (int i = 0; i < kSlots; ++i) {
          const int64_t k = w * 64 + s * 8 + i % 4 * 2;
          const int8_t a = m.at(row + i / 4, k), b = m.at(row + i / 4, k + 1);
          if (b) streams.data[start + static_cast<size_t>(i)] |= static_cast<uint8_t>(1 << s);
          streams.put(start + static_cast<size_t>((1 + s) * kSlots + i), b ? b : a);
        }
    }
    streams.end_group(windows * kSteps);
  }
  return nullptr;
}

}  // namespace

const Layout kOneOfTwo = {"one_of_two",  kRows, kWindow / kSteps, kSlots,
                          expected_fill, pack,  unpack_by<Walk>,  multiply_by<Walk>};

}  // namespace sd
