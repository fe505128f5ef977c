// SPDX-License-Identifier: Apache-2.0
// Constants of the block_1x4 layout for its kernels.
#pragma once

#include <stdint.h>

namespace sd {

// Units of 4 k in a part of a group. A panel of this size, [kPanelUnits][64 tokens][4 k], fits L1.
constexpr int64_t kPanelUnits = 96;
constexpr int64_t kPanelDwords = kPanelUnits * 64;

}  // namespace sd
