// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "types.h"

namespace sd {
namespace {

// The tail in gelu() of epilogue.h: gelu(x) = x * (1 - tail(x)) for x >= 0.
double erf_tail(double x) { return 0.5 * std::erfc(x * std::sqrt(0.5)); }
double tanh_tail(double x) {
  const double root = std::sqrt(2 / std::acos(-1.0));
  return 0.5 * (1 - std::tanh(root * (x + 0.044715 * x * x * x)));
}

// A parabola per segment [i/4 - 1/8, i/4 + 1/8] through the tail at the Chebyshev nodes, which is close to the best
// approximation.
GeluTable fit(double (*tail)(double)) {
  GeluTable table{};
  for (int i = 0; i < 16; ++i) {
    const double center = i / 4.0, node = std::sqrt(3.0) / 2 / 8;
    const double low = tail(center - node), middle = tail(center), high = tail(center + node);
    // In u = x - center: middle + slope u + curve u^2, then expanded in x.
    const double slope = (high - low) / (2 * node), curve = (high + low - 2 * middle) / (2 * node * node);
    table.c0[i] = static_cast<float>(middle - slope * center + curve * center * center);
    table.c1[i] = static_cast<float>(slope - 2 * curve * center);
    table.c2[i] = static_cast<float>(curve);
  }
  return table;
}

const GeluTable gelu_table = fit(erf_tail), gelu_tanh_table = fit(tanh_tail);

}  // namespace

const GeluTable *const kGelu = &gelu_table;
const GeluTable *const kGeluTanh = &gelu_tanh_table;

}  // namespace sd
