// SPDX-License-Identifier: Apache-2.0
#include "sort_rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "layouts/survey.h"

namespace sd {
namespace {

// Sorts rows by their number of nonzeros, in units of `unit` rows: rows of a group are padded to the longest of them,
// and magnitude pruning over a whole model leaves rows of very different length (benchmarks/notes.md has the effect).
// The nonzeros of row i of `beside`, if it is not null, are added to those of row i of m.
std::vector<int32_t> sorted_rows(const Matrix &m, int64_t unit, const Matrix *beside = nullptr) {
  std::vector<int64_t> count(static_cast<size_t>(m.n / unit), 0);
  for (const Matrix *one : {&m, beside}) {
    if (!one) continue;
    for (int64_t r = 0; r < one->n; ++r)
      for (int64_t k = 0; k < one->k; ++k)
        count[static_cast<size_t>(r / unit)] += one->w[static_cast<size_t>(r * one->k + k)] != 0;
  }
  std::vector<int32_t> units(count.size());
  std::iota(units.begin(), units.end(), 0);
  std::stable_sort(units.begin(), units.end(), [&](int32_t a, int32_t b) {
    return count[static_cast<size_t>(a)] > count[static_cast<size_t>(b)];
  });
  std::vector<int32_t> rows;
  for (int32_t u : units)
    for (int32_t i = 0; i < unit; ++i) rows.push_back(static_cast<int32_t>(u * unit + i));
  return rows;
}

// Share of the slots that sorting saves if each group of 16 units is as long as its longest unit.
double saved_by_sorting(const Matrix &m, int64_t unit, const std::vector<int32_t> &order) {
  const auto slots = [&](bool sorted) {
    int64_t total = 0;
    for (int64_t group = 0; group < m.n; group += 16 * unit) {
      int64_t longest = 0;
      for (int64_t r = group; r < std::min(group + 16 * unit, m.n); r += unit) {
        const int64_t row = sorted ? order[static_cast<size_t>(r)] : r;
        int64_t count = 0;
        for (int64_t k = 0; k < m.k; ++k) count += m.w[static_cast<size_t>(row * m.k + k)] != 0;
        longest = std::max(longest, count);
      }
      total += longest;
    }
    return static_cast<double>(total);
  };
  return 1 - slots(true) / std::max(1.0, slots(false));
}

bool in_blocks(const Matrix &m) {
  const std::string pattern = find_pattern(survey(m));
  return pattern != "dense" && pattern != "unstructured";
}

}  // namespace

void Rows::reorder(const std::vector<int32_t> &order) {
  Rows old = *this;
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t from = static_cast<size_t>(order[i]), k = static_cast<size_t>(matrix.k);
    std::memcpy(&matrix.w[i * k], &old.matrix.w[from * k], k);
    scale[i] = old.scale[from];
    bias[i] = old.bias[from];
  }
}

void Rows::reorder_columns(const std::vector<int32_t> &order) {
  std::vector<int8_t> row(order.size());
  for (int64_t r = 0; r < matrix.n; ++r) {
    int8_t *w = &matrix.w[static_cast<size_t>(r * matrix.k)];
    for (size_t i = 0; i < order.size(); ++i) row[i] = w[order[i]];
    std::memcpy(w, row.data(), row.size());
  }
}

void sort_rows(Rows (&linears)[SD_LINEARS], Rows *gate, std::vector<int32_t> &attention_position,
               std::vector<int32_t> &output_position) {
  constexpr double kWorthwhile = 0.15;
  Rows &intermediate = linears[SD_INTERMEDIATE], &output = linears[SD_OUTPUT];
  const bool blocks = in_blocks(intermediate.matrix) || in_blocks(output.matrix) || (gate && in_blocks(gate->matrix));
  const int64_t unit = blocks ? 4 : 1;
  if (intermediate.matrix.n % unit == 0) {
    const std::vector<int32_t> order = sorted_rows(intermediate.matrix, unit, gate ? &gate->matrix : nullptr);
    intermediate.reorder(order);
    if (gate) gate->reorder(order);
    output.reorder_columns(order);
  }
  const auto sort_output = [&](Rows &rows, std::vector<int32_t> &position) {
    const int64_t rows_unit = in_blocks(rows.matrix) ? 4 : 1;
    if (rows.matrix.n % rows_unit) return;
    const std::vector<int32_t> order = sorted_rows(rows.matrix, rows_unit);
    if (saved_by_sorting(rows.matrix, rows_unit, order) < kWorthwhile) return;
    rows.reorder(order);
    position.resize(order.size());
    for (size_t i = 0; i < order.size(); ++i) position[static_cast<size_t>(order[i])] = static_cast<int32_t>(i);
  };
  sort_output(linears[SD_ATTENTION_OUTPUT], attention_position);
  sort_output(output, output_position);
}

}  // namespace sd
