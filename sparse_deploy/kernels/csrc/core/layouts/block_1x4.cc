// SPDX-License-Identifier: Apache-2.0
// Blocks of 1(out)x4(in), for kernels with tokens in lanes instead of rows: parts of 384 k of the activations are
// transposed into a panel [96 units of 4 k][64 tokens][4]. 64 rows a group. Per group and part the rows come sorted by
// their number of pairs of units (`meta`: row | pairs << 8, 64 entries), so that the loop's length is predictable; a step
// is a pair: 2 x 4 weights in `data`, 2 unit positions in `index`. `first` has an entry per group and part.
#include "block_1x4.h"

#include <algorithm>

#include "layout.h"
#include "streams.h"
#include "survey.h"
#include "units.h"
#include "walk.h"

namespace sd {
namespace {

constexpr int kRows = 64, kStep = 8;

struct Walk {
  template <typename Visit>
  static void group(const Packed &p, int64_t g, Visit visit) {
    for (int64_t part = 0; part < p.parts; ++part) {
      int64_t step = p.first[g * p.parts + part];
      for (int64_t r = 0; r < kRows; ++r) {
        const uint16_t run = p.meta[(g * p.parts + part) * kRows + r];
        for (int left = run >> 8; left; --left, ++step)
          for (int i = 0; i < kStep; ++i)
            visit(run & 63, (part * kPanelUnits + p.index[step * 2 + i / 4]) * 4 + i % 4,
                  static_cast<int8_t>(p.data[step * kStep + i]));
      }
    }
  }
};

double expected_fill(const Survey &survey) { return (1 - survey.zeros_1x4) * 1.03 + 0.003; }

// The units of a row inside one part.
struct Run {
  size_t row, begin, count, pairs;
};

const char *pack(const Matrix &m, const Survey &, const PackRules &, Streams &streams) {
  const int64_t columns = (m.k + 3) / 4;
  streams.parts = static_cast<int32_t>((columns + kPanelUnits - 1) / kPanelUnits);
  for (int64_t row = 0; row < m.n; row += kRows) {
    const Units rows = find_units(m, row, kRows, 1, 4);
    size_t next[kRows] = {};
    for (int64_t begin = 0; begin < columns; begin += kPanelUnits) {
      std::vector<Run> runs;
      for (size_t r = 0; r < kRows; ++r) {
        const size_t from = next[r];
        while (next[r] < rows[r].size() && rows[r][next[r]] < begin + kPanelUnits) ++next[r];
        runs.push_back({r, from, next[r] - from, (next[r] - from + 1) / 2});
      }
      std::stable_sort(runs.begin(), runs.end(), [](const Run &a, const Run &b) { return a.pairs > b.pairs; });
      size_t pairs = 0;
      for (const Run &run : runs) {
        streams.meta.push_back(static_cast<uint16_t>(run.row | run.pairs << 8));
        const size_t data = streams.add(run.pairs * kStep), index = Streams::grow(streams.index, run.pairs * 2);
        for (size_t i = 0; i < run.count; ++i) {
          const int64_t unit = rows[run.row][run.begin + i];
          streams.index[index + i] = static_cast<uint8_t>(unit - begin);
          for (size_t j = 0; j < 4; ++j)
            streams.put(data + i * 4 + j,
                        m.at(row + static_cast<int64_t>(run.row), unit * 4 + static_cast<int64_t>(j)));
        }
        pairs += run.pairs;
      }
      streams.end_group(static_cast<int64_t>(pairs));
    }
  }
  return nullptr;
}

}  // namespace

const Layout kBlock1x4 = {"block_1x4",   kRows, kStep,           kStep,
                          expected_fill, pack,  unpack_by<Walk>, multiply_by<Walk>};

}  // namespace sd
