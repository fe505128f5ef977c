// SPDX-License-Identifier: Apache-2.0
// Blocks of 4(out)x1(in). 64 rows per group. A step: 64 positions inside a window of 64 k (u8), shared by the 4 rows of
// a block, and 4 x 64 weights (row r of the 16 blocks); `meta` has the start of each step's window. Lane j is block
// 4*(j%4) + j/4, so that 8 unpacks give 64 neighbouring outputs.
#include "layout.h"
#include "streams.h"
#include "survey.h"
#include "units.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kRows = 64, kBlocks = 16, kWindow = 64, kAlign = 8, kPositions = kBlocks * 4, kStep = 5 * kPositions;

// Its own inverse.
constexpr int64_t lane_of(int64_t block) { return 4 * (block % 4) + block / 4; }

struct Walk {
  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t step = p.first[g]; step < p.first[g + 1]; ++step) {
      const uint8_t *data = p.data + step * kStep;
      for (int i = 0; i < kPositions; ++i)
        for (int r = 0; r < 4; ++r)
          visit(lane_of(i / 4) * 4 + r, p.meta[step] + data[i], static_cast<int8_t>(data[(1 + r) * kPositions + i]));
    }
  }
};

double expected_fill(const Survey &survey) { return (1 - survey.zeros_4x1) * 1.18; }

const char *pack(const Matrix &m, const Survey &, const PackRules &, Streams &streams) {
  for (int64_t row = 0; row < m.n; row += kRows) {
    const Units blocks = find_units(m, row, kBlocks, 4, 1);
    SlidingWindow window(blocks, m.k, kWindow, kAlign);
    int64_t steps = 0;
    for (int64_t begin; window.move(begin); ++steps) {
      streams.meta.push_back(static_cast<uint16_t>(begin));
      const size_t start = streams.add(kStep);
      window.step(begin, [&](size_t block, size_t i, int64_t k) {
        const size_t slot = static_cast<size_t>(lane_of(static_cast<int64_t>(block))) * 4 + i;
        streams.data[start + slot] = static_cast<uint8_t>(k - begin);
        for (size_t r = 0; r < 4; ++r)
          streams.put(start + (1 + r) * kPositions + slot, m.at(row + static_cast<int64_t>(block * 4 + r), k));
      });
    }
    streams.end_group(steps);
  }
  return nullptr;
}

}  // namespace

const Layout kBlock4x1 = {"block_4x1",   kRows, kStep,           4 * kPositions,
                          expected_fill, pack,  unpack_by<Walk>, multiply_by<Walk>};

}  // namespace sd
