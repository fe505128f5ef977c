// SPDX-License-Identifier: Apache-2.0
#include "pack.h"

#include <algorithm>
#include <cstring>

namespace sd {
namespace {

constexpr const char *kNames[kLayouts] = {"dense", "unstructured", "half", "block_4x1", "block_1x4"};

// A sparse layout must promise this much to be taken: below it, what the model leaves out (caches, uneven rows) could
// make it slower than dense.
constexpr double kWorthwhile = 0.9;

// Growing parts of a packed form before they move into one block.
struct Streams {
  std::vector<uint8_t> data, index;
  std::vector<uint16_t> meta;
  std::vector<int64_t> first{0};
};

// Positions of the nonzero units of the rows of a group (empty for rows past n).
using Units = std::vector<std::vector<uint16_t>>;

// Slots of a step of the layouts that slide a window of 64 k over the rows: it starts at a multiple of 8 at or before the
// first k that any row still needs, and each row takes its next units inside it.
struct Slide {
  const Units &rows;
  const int64_t last;  // start of the last window that can be read
  std::vector<size_t> next;

  Slide(const Units &units, int64_t k) : rows(units), last(round_up(k, 64) - 64), next(units.size(), 0) {}

  // False when nothing is left. Multiples of 8: starting anywhere fills 0.3 % better.
  bool move(int64_t &begin) const {
    int64_t nearest = -1;
    for (size_t r = 0; r < rows.size(); ++r)
      if (next[r] < rows[r].size() && (nearest < 0 || rows[r][next[r]] < nearest)) nearest = rows[r][next[r]];
    if (nearest < 0) return false;
    begin = std::min(nearest / 8 * 8, last);
    return true;
  }
  // emit(row, i, k) for up to four units of each row.
  template <typename Emit>
  void step(int64_t begin, Emit emit) {
    for (size_t r = 0; r < rows.size(); ++r)
      for (size_t i = 0; i < 4 && next[r] < rows[r].size() && rows[r][next[r]] < begin + 64; ++i)
        emit(r, i, rows[r][next[r]++]);
  }
};

class Packer {
 public:
  explicit Packer(const Matrix &matrix) : m_(matrix) {}

  Streams streams;

  int8_t at(int64_t row, int64_t column) const {
    return row < m_.n && column < m_.k ? m_.w[static_cast<size_t>(row * m_.k + column)] : int8_t{0};
  }

  Units units(int64_t row, int rows, int unit_rows, int unit_columns) const {
    Units result(static_cast<size_t>(rows));
    const int64_t columns = (m_.k + unit_columns - 1) / unit_columns;
    for (int r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        bool any = false;
        for (int i = 0; i < unit_rows; ++i)
          for (int j = 0; j < unit_columns; ++j) any |= at(row + r * unit_rows + i, c * unit_columns + j) != 0;
        if (any) result[static_cast<size_t>(r)].push_back(static_cast<uint16_t>(c));
      }
    }
    return result;
  }

  void dense() {
    const int64_t quads = (m_.k + 3) / 4;
    for (int64_t row = 0; row < m_.n; row += 64) {
      const size_t start = grow(streams.data, static_cast<size_t>(quads) * 256);
      for (int64_t q = 0; q < quads; ++q)
        for (int r = 0; r < 64; ++r)
          for (int i = 0; i < 4; ++i) put(start + static_cast<size_t>(q * 256 + r * 4 + i), at(row + r, q * 4 + i));
      streams.first.push_back(streams.first.back() + quads);
    }
  }

  // `per_window` steps for each position of the window. Slots / dense for random zeros at K = 768: 2 steps 0.340 for
  // 70 % and 0.163 for 90 %, 3 steps 0.350 and 0.200; a data-dependent number of them needs 0.345 and 0.148, and costs
  // more in mispredicted branches than that.
  void unstructured(int per_window) {
    for (int64_t row = 0; row < m_.n; row += 16) {
      const Units rows = units(row, 16, 1, 1);
      Slide slide(rows, m_.k);
      int64_t steps = 0;
      for (int64_t begin; slide.move(begin); steps += per_window) {
        streams.meta.push_back(static_cast<uint16_t>(begin));
        for (int s = 0; s < per_window; ++s) {
          const size_t start = grow(streams.data, 128);
          slide.step(begin, [&](size_t r, size_t i, int64_t k) {
            streams.data[start + r * 4 + i] = static_cast<uint8_t>(k - begin);
            put(start + 64 + r * 4 + i, at(row + static_cast<int64_t>(r), k));
          });
        }
      }
      streams.first.push_back(streams.first.back() + steps);
    }
  }

  // False when a pair keeps two.
  bool half() {
    const int64_t windows = (m_.k + 63) / 64;
    for (int64_t row = 0; row < m_.n; row += 16) {
      for (int64_t w = 0; w < windows; ++w) {
        const size_t start = grow(streams.data, 64 + 512);
        for (int step = 0; step < 8; ++step) {
          for (int i = 0; i < 64; ++i) {
            const int64_t k = w * 64 + step * 8 + i % 4 * 2;
            const int8_t a = at(row + i / 4, k), b = at(row + i / 4, k + 1);
            if (a && b) return false;
            if (b) streams.data[start + static_cast<size_t>(i)] |= static_cast<uint8_t>(1 << step);
            put(start + 64 + static_cast<size_t>(step * 64 + i), b ? b : a);
          }
        }
      }
      streams.first.push_back(streams.first.back() + windows * 8);
    }
    return true;
  }

  void block_4x1() {
    for (int64_t row = 0; row < m_.n; row += 64) {
      const Units quads = units(row, 16, 4, 1);
      Slide slide(quads, m_.k);
      int64_t steps = 0;
      for (int64_t begin; slide.move(begin); ++steps) {
        streams.meta.push_back(static_cast<uint16_t>(begin));
        const size_t start = grow(streams.data, 320);
        slide.step(begin, [&](size_t q, size_t i, int64_t k) {
          const size_t lane = q / 4 + 4 * (q % 4);  // the inverse of block = 4*(lane%4) + lane/4
          streams.data[start + lane * 4 + i] = static_cast<uint8_t>(k - begin);
          for (size_t r = 0; r < 4; ++r)
            put(start + 64 + r * 64 + lane * 4 + i, at(row + static_cast<int64_t>(q * 4 + r), k));
        });
      }
      streams.first.push_back(streams.first.back() + steps);
    }
  }

  void block_1x4() {
    const int64_t columns = (m_.k + 3) / 4;
    for (int64_t row = 0; row < m_.n; row += 64) {
      const Units rows = units(row, 64, 1, 4);
      size_t next[64] = {};
      for (int64_t begin = 0; begin < columns; begin += kPanelUnits) {
        struct Run {
          size_t row, begin, count, pairs;
        };
        std::vector<Run> runs;
        for (size_t r = 0; r < 64; ++r) {
          const size_t from = next[r];
          while (next[r] < rows[r].size() && rows[r][next[r]] < begin + kPanelUnits) ++next[r];
          runs.push_back({r, from, next[r] - from, (next[r] - from + 1) / 2});
        }
        std::stable_sort(runs.begin(), runs.end(), [](const Run &a, const Run &b) { return a.pairs > b.pairs; });
        size_t pairs = 0;
        for (const Run &run : runs) {
          streams.meta.push_back(static_cast<uint16_t>(run.row | run.pairs << 8));
          const size_t data = grow(streams.data, run.pairs * 8), index = grow(streams.index, run.pairs * 2);
          for (size_t i = 0; i < run.count; ++i) {
            const int64_t unit = rows[run.row][run.begin + i];
            streams.index[index + i] = static_cast<uint8_t>(unit - begin);
            for (size_t j = 0; j < 4; ++j)
              put(data + i * 4 + j, at(row + static_cast<int64_t>(run.row), unit * 4 + static_cast<int64_t>(j)));
          }
          pairs += run.pairs;
        }
        streams.first.push_back(streams.first.back() + static_cast<int64_t>(pairs));
      }
    }
  }

 private:
  static size_t grow(std::vector<uint8_t> &bytes, size_t by) {
    const size_t start = bytes.size();
    bytes.resize(start + by, 0);
    return start;
  }
  void put(size_t at, int8_t value) { streams.data[at] = static_cast<uint8_t>(value); }

  const Matrix &m_;
};

struct Shape {
  double zeros, quads_out, quads_in;  // shares of zero weights, of zero 4x1 and of zero 1x4 blocks
  bool half;                          // no pair of neighbours along k keeps two
  bool exactly_half;                  // ... and it is not just an almost empty matrix
};

Shape survey(const Matrix &m) {
  const int64_t columns = (m.k + 3) / 4, rows = (m.n + 3) / 4;
  int64_t nonzero = 0, in = 0, out = 0;
  bool half = true;
  std::vector<uint8_t> any(static_cast<size_t>(m.k));
  for (int64_t n = 0; n < m.n; ++n) {
    const int8_t *w = &m.w[static_cast<size_t>(n * m.k)];
    if (n % 4 == 0) std::fill(any.begin(), any.end(), uint8_t{0});
    for (int64_t k = 0; k < m.k; ++k) {
      any[static_cast<size_t>(k)] |= w[k] != 0;
      nonzero += w[k] != 0;
    }
    for (int64_t k = 0; k + 1 < m.k && half; k += 2) half = !(w[k] && w[k + 1]);
    for (int64_t c = 0; c < columns; ++c) {
      bool kept = false;
      for (int64_t k = c * 4; k < std::min(c * 4 + 4, m.k); ++k) kept |= w[k] != 0;
      in += kept;
    }
    if (n % 4 == 3 || n + 1 == m.n)
      for (uint8_t kept : any) out += kept;
  }
  Shape shape;
  shape.zeros = 1 - static_cast<double>(nonzero) / static_cast<double>(m.n * m.k);
  shape.quads_in = 1 - static_cast<double>(in) / static_cast<double>(m.n * columns);
  shape.quads_out = 1 - static_cast<double>(out) / static_cast<double>(rows * m.k);
  shape.half = half;
  shape.exactly_half = half && shape.zeros < 0.6;
  return shape;
}

const char *pattern_of(const Shape &shape) {
  if (shape.zeros < 0.05) return "dense";
  // Nearly all zeros in whole blocks: quantisation may have added single ones inside.
  if (shape.quads_out > 0.9 * shape.zeros) return "block_4x1";
  if (shape.quads_in > 0.9 * shape.zeros) return "block_1x4";
  return shape.exactly_half ? "1:2" : "unstructured";
}

// Rough slots / dense of a layout before it is packed; only decides which one is packed.
double expected_fill(Layout layout, const Shape &shape) {
  switch (layout) {
    case kUnstructured: return std::min(1.0, (1 - shape.zeros) * 1.05 + 0.03);
    case kHalf: return shape.half ? 0.5 : 1e9;
    case kBlock4x1: return (1 - shape.quads_out) * 1.18;
    case kBlock1x4: return (1 - shape.quads_in) * 1.03 + 0.003;
    default: return 1;
  }
}

int64_t slots_per_step(Layout layout) { return layout == kDense || layout == kBlock4x1 ? 256 : layout == kBlock1x4 ? 8 : 64; }

// Steps per window that fill better: with few nonzeros a window has no use for three.
int steps_per_window(const Shape &shape) { return shape.zeros < 0.55 ? 3 : 2; }

bool build(Packer &packer, Layout layout, const Shape &shape) {
  switch (layout) {
    case kDense: packer.dense(); return true;
    case kUnstructured: packer.unstructured(steps_per_window(shape)); return true;
    case kHalf: return packer.half();
    case kBlock4x1: packer.block_4x1(); return true;
    case kBlock1x4: packer.block_1x4(); return true;
    default: return false;
  }
}

template <typename T>
const T *place(uint8_t *block, size_t &used, const std::vector<T> &values) {
  if (!values.empty()) std::memcpy(block + used, values.data(), values.size() * sizeof(T));
  const T *placed = reinterpret_cast<const T *>(block + used);
  used += (values.size() * sizeof(T) + 63) / 64 * 64;
  return placed;
}

void store(const Matrix &matrix, Layout layout, const Shape &shape, const Streams &streams, Weight &weight) {
  constexpr size_t kReadAhead = 256;  // the kernels' prefetches and last index loads may pass the end
  const size_t bytes = round_up(static_cast<int64_t>(streams.data.size()), 64) +
                       round_up(static_cast<int64_t>(streams.index.size()), 64) +
                       round_up(static_cast<int64_t>(streams.meta.size() * 2), 64) +
                       round_up(static_cast<int64_t>(streams.first.size() * 8), 64);
  weight.memory = allocate_block(bytes + kReadAhead);
  weight.bytes = bytes;
  size_t used = 0;
  Packed &p = weight.packed;
  p.layout = layout;
  p.n = matrix.n;
  p.k = matrix.k;
  p.group_rows = layout == kUnstructured || layout == kHalf ? 16 : 64;
  p.groups = static_cast<int32_t>((matrix.n + p.group_rows - 1) / p.group_rows);
  p.windows = static_cast<int32_t>(layout == kUnstructured ? steps_per_window(shape)
                                   : layout == kBlock1x4   ? ((matrix.k + 3) / 4 + kPanelUnits - 1) / kPanelUnits
                                                           : 0);
  p.steps = streams.first.back();
  p.data = place(weight.memory.get(), used, streams.data);
  p.index = place(weight.memory.get(), used, streams.index);
  p.meta = place(weight.memory.get(), used, streams.meta);
  p.first = place(weight.memory.get(), used, streams.first);
}

}  // namespace

const char *layout_name(Layout layout) { return kNames[layout]; }

const char *find_pattern(const Matrix &matrix) { return pattern_of(survey(matrix)); }

std::string pack(const Matrix &matrix, const char *name, const Kernels &kernels, Weight &weight) {
  const Shape shape = survey(matrix);
  Layout layout = kDense;
  if (name && *name) {
    int i = 0;
    while (i < kLayouts && std::strcmp(kNames[i], name) != 0) ++i;
    if (i == kLayouts) return std::string("unknown kernel ") + name + "; known: dense, unstructured, half, block_4x1, block_1x4";
    layout = static_cast<Layout>(i);
  } else {
    double best = kWorthwhile;
    for (int i = kDense + 1; i < kLayouts; ++i) {
      const double cost = expected_fill(static_cast<Layout>(i), shape) * kernels.cost[i];
      if (cost < best) {
        best = cost;
        layout = static_cast<Layout>(i);
      }
    }
  }
  const auto finish = [&](Layout chosen, const Streams &streams) {
    store(matrix, chosen, shape, streams, weight);
    weight.fill = static_cast<double>(weight.packed.steps * slots_per_step(chosen)) /
                  static_cast<double>(matrix.n * matrix.k);
    weight.cost = weight.fill * kernels.cost[chosen];
  };
  {
    Packer packer(matrix);
    if (!build(packer, layout, shape)) return "kernel half: a pair of neighbours along k keeps two weights";
    finish(layout, packer.streams);
  }
  // The real fill can be worse than expected: rows of very different length share a group.
  if (layout != kDense && !(name && *name) && weight.cost > kWorthwhile) {
    Packer packer(matrix);
    packer.dense();
    finish(kDense, packer.streams);
  }
  weight.pattern = pattern_of(shape);
  weight.nonzeros = 0;
  weight.row_sum.assign(static_cast<size_t>(matrix.n), 0);
  for (int64_t n = 0; n < matrix.n; ++n) {
    for (int64_t k = 0; k < matrix.k; ++k) {
      const int8_t w = matrix.w[static_cast<size_t>(n * matrix.k + k)];
      weight.row_sum[static_cast<size_t>(n)] += w;
      weight.nonzeros += w != 0;
    }
  }
  return "";
}

void unpack(const Packed &p, int8_t *w) {
  std::memset(w, 0, static_cast<size_t>(p.n * p.k));
  const auto set = [&](int64_t row, int64_t k, uint8_t value) {
    if (value && row < p.n && k < p.k) w[row * p.k + k] = static_cast<int8_t>(value);
  };
  for (int64_t g = 0; g < p.groups; ++g) {
    const int64_t row = g * p.group_rows;
    int64_t step = p.first[g];
    switch (p.layout) {
      case kDense:
        for (int64_t q = 0; step < p.first[g + 1]; ++step, ++q)
          for (int64_t i = 0; i < 256; ++i) set(row + i / 4, q * 4 + i % 4, p.data[step * 256 + i]);
        break;
      case kHalf:
        for (int64_t s = 0; step < p.first[g + 1]; ++step, ++s) {
          const uint8_t *window = p.data + step / 8 * 576;
          for (int64_t i = 0; i < 64; ++i)
            set(row + i / 4, s * 8 + i % 4 * 2 + (window[i] >> step % 8 & 1), window[64 + step % 8 * 64 + i]);
        }
        break;
      case kBlock4x1:
        for (; step < p.first[g + 1]; ++step)
          for (int64_t i = 0; i < 64; ++i) {
            const int64_t lane = i / 4, quad = 4 * (lane % 4) + lane / 4;
            for (int64_t r = 0; r < 4; ++r)
              set(row + quad * 4 + r, p.meta[step] + p.data[step * 320 + i], p.data[step * 320 + 64 + r * 64 + i]);
          }
        break;
      case kUnstructured:
        for (; step < p.first[g + 1]; ++step)
          for (int64_t j = 0; j < 64; ++j)
            set(row + j / 4, p.meta[step / p.windows] + p.data[step * 128 + j], p.data[step * 128 + 64 + j]);
        break;
      case kBlock1x4:
        step = p.first[g * p.windows];
        for (int64_t v = 0; v < p.windows; ++v)
          for (int64_t r = 0; r < 64; ++r) {
            const uint16_t run = p.meta[(g * p.windows + v) * 64 + r];
            for (int64_t i = 0; i < 2 * (run >> 8); ++i)
              for (int64_t j = 0; j < 4; ++j)
                set(row + (run & 63), (v * kPanelUnits + p.index[step * 2 + i]) * 4 + j, p.data[step * 8 + i * 4 + j]);
            step += run >> 8;
          }
        break;
      default: break;
    }
  }
}

}  // namespace sd
