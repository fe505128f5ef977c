// SPDX-License-Identifier: Apache-2.0
// Blocks of 4(out)x1(in), for byte shuffles inside 16 bytes. 4, 8 or 16 blocks (16, 32 or 64 rows) per group. A step:
// positions inside a window of 16 k (u8), 4 of each block and shared by its rows, then the weights: row 0 of all
// blocks, row 1, 2 and 3; `meta` has the start of the step's window. The order of the lanes (of 4 positions) is such
// that 8 unpacks give neighbouring outputs.
#include "../matrix.h"
#include "layout.h"
#include "narrow_window.h"
#include "streams.h"
#include "survey.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kWindow = 16;

template <int kBlocks>
struct Narrow {
  static constexpr int kRows = kBlocks * 4, kPositions = kBlocks * 4, kStep = 5 * kPositions;

  // Lane j of a register of 128-bit parts is block (j % 4) * parts + j / 4.
  static constexpr int64_t block_of(int64_t lane) { return lane % 4 * (kBlocks / 4) + lane / 4; }
  static constexpr int64_t lane_of(int64_t block) { return block % (kBlocks / 4) * 4 + block / (kBlocks / 4); }

  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t step = p.first[g]; step < p.first[g + 1]; ++step) {
      const uint8_t *data = p.data + step * kStep;
      for (int i = 0; i < kPositions; ++i)
        for (int r = 0; r < 4; ++r)
          visit(block_of(i / 4) * 4 + r, p.meta[step] + data[i], static_cast<int8_t>(data[(1 + r) * kPositions + i]));
    }
  }

  // Slots with random zeros of 80 %, K = 768, 8 blocks: 0.34.
  static double expected_fill(const Survey &survey) {
    return std::min(1.0, (kBlocks == 16 ? 0.74 : kBlocks == 8 ? 0.70 : 0.68) * (1 - survey.zeros_4x1) +
                             (kBlocks == 4 ? 0.17 : 0.21));
  }

  static const char *pack(const Matrix &m, const Survey &, const PackRules &rules, Streams &streams) {
    for (int64_t row = 0; row < m.n; row += kRows) {
      const Units blocks = find_units(m, row, kBlocks, 4, 1);
      NarrowWindow window(blocks, m.k, kWindow);
      const auto fit = [&](size_t block, int64_t a, int64_t b) {
        bool fits = true;
        for (int64_t r = row + static_cast<int64_t>(block) * 4, end = r + 4; r < end && rules.lane_weights; ++r)
          fits &= lane_fits_pair(m.at(r, a), m.at(r, b));
        return fits;
      };
      int64_t steps = 0;
      for (int64_t begin; window.move(begin); ++steps) {
        streams.meta.push_back(static_cast<uint16_t>(begin));
        const size_t start = streams.add(kStep);
        window.step(begin, fit, [&](size_t block, size_t slot, int64_t k) {
          const size_t at = static_cast<size_t>(lane_of(static_cast<int64_t>(block))) * 4 + slot;
          streams.data[start + at] = static_cast<uint8_t>(k - begin);
          for (size_t r = 0; r < 4; ++r)
            streams.put(start + (1 + r) * kPositions + at, m.at(row + static_cast<int64_t>(block * 4 + r), k));
        });
      }
      streams.end_group(steps);
    }
    return nullptr;
  }

  static constexpr Layout layout(const char *name) {
    return {name, kRows, kStep, 4 * kPositions, expected_fill, pack, unpack_by<Narrow>, multiply_by<Narrow>};
  }
};

}  // namespace

const Layout kBlock4x1Narrow4 = Narrow<4>::layout("block_4x1_16x4");
const Layout kBlock4x1Narrow8 = Narrow<8>::layout("block_4x1_16x8");
const Layout kBlock4x1Narrow16 = Narrow<16>::layout("block_4x1_16x16");

}  // namespace sd
