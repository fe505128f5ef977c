// SPDX-License-Identifier: Apache-2.0
// A layout defines the positions of its weights once: Walk::group(packed, group, visit) calls visit(row of the group,
// k, weight) for each slot, including unused ones (weight 0). Unpacking and the reference product use it.
#pragma once

#include "../types.h"

namespace sd {

template <typename Walk>
void unpack_by(const Packed &p, int8_t *w) {
  for (int64_t g = 0; g < p.groups; ++g)
    Walk::group(p, g, [&](int64_t r, int64_t k, int8_t value) {
      const int64_t row = g * p.layout->group_rows + r;
      if (value && row < p.n && k < p.k) w[row * p.k + k] = value;
    });
}

template <typename Walk>
void multiply_by(const Packed &p, int64_t group, const uint8_t *x, QuantizedType type, int32_t *sums) {
  if (type == kS8)
    Walk::group(p, group,
                [&](int64_t r, int64_t k, int8_t value) { sums[r] += value * static_cast<int8_t>(x[k]); });
  else
    Walk::group(p, group, [&](int64_t r, int64_t k, int8_t value) { sums[r] += value * x[k]; });
}

}  // namespace sd
