// SPDX-License-Identifier: Apache-2.0
#include "weight.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "layouts/streams.h"
#include "layouts/survey.h"

namespace sd {
namespace {

// Smallest predicted gain of a sparse layout. With a smaller gain, effects outside the cost model (caches, uneven rows)
// could make it slower than dense.
constexpr double kWorthwhile = 0.9;

const LayoutKernel *find_kernel(const InstructionSet &set, const Layout *layout) {
  for (int32_t i = 0; i < set.kernel_count; ++i)
    if (set.kernels[i].layout == layout && set.kernels[i].type == set.type) return &set.kernels[i];
  return nullptr;
}

// The kernel of a layout by name, or its reference product; false if no layout has this name. "dense" is the dense
// layout of the set, which may have a longer name.
bool forced_kernel(const InstructionSet &set, const char *name, LayoutKernel &kernel) {
  if (std::strcmp(name, kDense.name) == 0) {
    kernel = set.kernels[0];
    return true;
  }
  for (const Layout *const *at = kLayouts; *at; ++at) {
    if (std::strcmp((*at)->name, name) == 0) {
      const LayoutKernel *found = find_kernel(set, *at);
      constexpr double kReferenceCost = 40;  // scalar, relative to a vectorized dense kernel
      kernel = found ? *found
                     : LayoutKernel{.layout = *at, .type = set.type, .cost = kReferenceCost, .max_tokens = 4,
                                    .multiply = set.multiply_reference};
      return true;
    }
  }
  return false;
}

// The layout of SPARSE_DEPLOY_LAYOUT, unless the caller names a layout; "dense" is the set's dense layout, the baseline
// of benchmarks. "": chosen by the cost model.
const char *wished_layout(const InstructionSet &set) {
  static const std::string wish = [] {
    const char *value = std::getenv("SPARSE_DEPLOY_LAYOUT");
    return std::string(value ? value : "");
  }();
  return wish == "dense" ? set.kernels[0].layout->name : wish.c_str();
}

const LayoutKernel &cheapest_kernel(const InstructionSet &set, const Survey &survey) {
  const LayoutKernel *best = set.kernels;
  double least = kWorthwhile;
  for (int32_t i = 1; i < set.kernel_count; ++i) {
    const LayoutKernel &kernel = set.kernels[i];
    if (kernel.type != set.type) continue;
    const double cost = kernel.layout->expected_fill(survey) * kernel.cost;
    if (cost < least) {
      least = cost;
      best = &kernel;
    }
  }
  return *best;
}

template <typename T>
const T *place(uint8_t *block, size_t &used, const std::vector<T> &values) {
  if (!values.empty()) std::memcpy(block + used, values.data(), values.size() * sizeof(T));
  const T *placed = reinterpret_cast<const T *>(block + used);
  used += (values.size() * sizeof(T) + 63) / 64 * 64;
  return placed;
}

void store(const Matrix &matrix, const Layout &layout, const Streams &streams, Weight &weight) {
  constexpr size_t kReadAhead = 256;  // the kernels' prefetches and last index loads may read past the end
  const size_t bytes = static_cast<size_t>(round_up(static_cast<int64_t>(streams.data.size()), 64) +
                                           round_up(static_cast<int64_t>(streams.index.size()), 64) +
                                           round_up(static_cast<int64_t>(streams.meta.size() * 2), 64) +
                                           round_up(static_cast<int64_t>(streams.first.size() * 8), 64));
  weight.memory = allocate_block(bytes + kReadAhead);
  weight.bytes = bytes;
  size_t used = 0;
  Packed &p = weight.packed;
  p.layout = &layout;
  p.n = matrix.n;
  p.k = matrix.k;
  p.groups = static_cast<int32_t>((matrix.n + layout.group_rows - 1) / layout.group_rows);
  p.parts = streams.parts;
  p.window_steps = streams.window_steps;
  p.steps = streams.first.back();
  p.data = place(weight.memory.get(), used, streams.data);
  p.index = place(weight.memory.get(), used, streams.index);
  p.meta = place(weight.memory.get(), used, streams.meta);
  p.first = place(weight.memory.get(), used, streams.first);
}

std::string pack_for(const LayoutKernel &kernel, const Matrix &matrix, const Survey &survey, Weight &weight) {
  const Layout &layout = *kernel.layout;
  Streams streams;
  if (const char *problem = layout.pack(matrix, survey, kernel.rules, streams))
    return std::string("layout ") + layout.name + ": " + problem;
  store(matrix, layout, streams, weight);
  weight.kernel = kernel;
  weight.fill = static_cast<double>(weight.packed.steps * layout.step_slots) / static_cast<double>(matrix.n * matrix.k);
  weight.cost = weight.fill * kernel.cost;
  return "";
}

}  // namespace

std::string layout_names() {
  std::string names;
  for (const Layout *const *at = kLayouts; *at; ++at) names += (names.empty() ? "" : ",") + std::string((*at)->name);
  return names;
}

std::string pack(const Matrix &matrix, const char *name, const InstructionSet &set, Weight &weight) {
  const Survey found = survey(matrix);
  if (!name || !*name) name = wished_layout(set);
  const bool forced = *name;
  LayoutKernel kernel = set.kernels[0];
  if (forced) {
    if (!forced_kernel(set, name, kernel)) return std::string("unknown layout ") + name + "; known: " + layout_names();
  } else {
    kernel = cheapest_kernel(set, found);
  }
  std::string problem = pack_for(kernel, matrix, found, weight);
  // The real fill can be worse than expected: rows of very different length share a group.
  const LayoutKernel &dense = set.kernels[0];
  if (!forced && kernel.layout != dense.layout && (!problem.empty() || weight.cost > kWorthwhile))
    problem = pack_for(dense, matrix, found, weight);
  if (!problem.empty()) return problem;
  weight.set = &set;
  weight.pattern = find_pattern(found);
  weight.nonzeros = 0;
  weight.row_sum.assign(static_cast<size_t>(matrix.n), 0);
  for (int64_t n = 0; n < matrix.n; ++n)
    for (int64_t k = 0; k < matrix.k; ++k) {
      const int8_t w = matrix.w[static_cast<size_t>(n * matrix.k + k)];
      weight.row_sum[static_cast<size_t>(n)] += w;
      weight.nonzeros += w != 0;
    }
  return "";
}

void unpack(const Packed &packed, int8_t *w) {
  std::memset(w, 0, static_cast<size_t>(packed.n * packed.k));
  packed.layout->unpack(packed, w);
}

}  // namespace sd
