// SPDX-License-Identifier: Apache-2.0
// Blocks of 1(out)x4(in), for kernels with tokens in lanes instead of rows: parts of 384 k of the activations are
// transposed into a panel [96 units of 4 k][64 tokens][4]. 64 rows per group. In each group and part the rows are
// sorted by their number of pairs of units (`meta`: row | pairs << 8, 64 entries), so that the loop's length is
// predictable; a step is a pair: 2 x 4 weights in `data`, 2 unit positions in `index`. `first` has an entry per group
// and part.
#include "block_1x4.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "layout.h"
#include "narrow_window.h"
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

struct Unit {
  size_t index;  // inside its part
  int8_t w[4];
};

// Whether the products of two units (or of one unit and an empty one) fit two 16-bit lanes: weights 0 and 1 of both,
// and weights 2 and 3 of both.
bool fits_lanes(const Unit &a, const Unit &b) {
  for (int lane = 0; lane < 4; lane += 2) {
    int high = 0, low = 0;
    for (const int w : {a.w[lane], a.w[lane + 1], b.w[lane], b.w[lane + 1]}) (w > 0 ? high : low) += w;
    if (!lane_fits(high, low)) return false;
  }
  return true;
}

// An order of a row's units in which the units of each pair fit; a unit that fits no other is paired with an empty
// unit, and a unit that does not fit alone is split in two.
std::vector<Unit> pair_units(std::vector<Unit> units) {
  for (size_t i = 0, count = units.size(); i < count; ++i) {
    if (fits_lanes(units[i], {})) continue;
    Unit rest = {units[i].index, {0, units[i].w[1], 0, units[i].w[3]}};
    units[i].w[1] = units[i].w[3] = 0;
    units.push_back(rest);
  }
  const auto heaviest = [](const Unit &u) {
    return std::max(std::abs(u.w[0]) + std::abs(u.w[1]), std::abs(u.w[2]) + std::abs(u.w[3]));
  };
  std::stable_sort(units.begin(), units.end(), [&](const Unit &a, const Unit &b) { return heaviest(a) > heaviest(b); });
  std::vector<Unit> paired;
  std::vector<bool> taken(units.size(), false);
  for (size_t i = 0; i < units.size(); ++i) {
    if (taken[i]) continue;
    size_t j = i + 1;
    while (j < units.size() && (taken[j] || !fits_lanes(units[i], units[j]))) ++j;
    paired.push_back(units[i]);
    paired.push_back(j < units.size() ? units[j] : Unit{});
    if (j < units.size()) taken[j] = true;
  }
  return paired;
}

struct Run {
  size_t row;
  std::vector<Unit> units;
  size_t pairs() const { return (units.size() + 1) / 2; }
};

const char *pack(const Matrix &m, const Survey &, const PackRules &rules, Streams &streams) {
  const int64_t columns = (m.k + 3) / 4;
  streams.parts = static_cast<int32_t>((columns + kPanelUnits - 1) / kPanelUnits);
  for (int64_t row = 0; row < m.n; row += kRows) {
    const Units rows = find_units(m, row, kRows, 1, 4);
    size_t next[kRows] = {};
    for (int64_t begin = 0; begin < columns; begin += kPanelUnits) {
      std::vector<Run> runs;
      for (size_t r = 0; r < kRows; ++r) {
        Run run = {r, {}};
        for (; next[r] < rows[r].size() && rows[r][next[r]] < begin + kPanelUnits; ++next[r]) {
          const int64_t unit = rows[r][next[r]];
          run.units.push_back({static_cast<size_t>(unit - begin), {}});
          for (int64_t i = 0; i < 4; ++i)
            run.units.back().w[i] = m.at(row + static_cast<int64_t>(r), unit * 4 + i);
        }
        if (rules.lane_weights) run.units = pair_units(std::move(run.units));
        runs.push_back(std::move(run));
      }
      std::stable_sort(runs.begin(), runs.end(), [](const Run &a, const Run &b) { return a.pairs() > b.pairs(); });
      size_t pairs = 0;
      for (const Run &run : runs) {
        streams.meta.push_back(static_cast<uint16_t>(run.row | run.pairs() << 8));
        const size_t data = streams.add(run.pairs() * kStep), index = Streams::grow(streams.index, run.pairs() * 2);
        for (size_t i = 0; i < run.units.size(); ++i) {
          streams.index[index + i] = static_cast<uint8_t>(run.units[i].index);
          for (size_t j = 0; j < 4; ++j) streams.put(data + i * 4 + j, run.units[i].w[j]);
        }
        pairs += run.pairs();
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
