// SPDX-License-Identifier: Apache-2.0
// Features of the CPU. The instruction sets' translation units include this header: plain data only.
#pragma once

#include <stdint.h>

namespace sd {

enum Feature : uint32_t {
  kHasAvx2 = 1 << 0,        // with FMA and F16C
  kHasAvxVnni = 1 << 1,     // 256-bit, VEX-encoded
  kHasAvx512 = 1 << 2,      // F, DQ, BW and VL
  kHasAvx512Vnni = 1 << 3,
  kHasAvx512Vbmi = 1 << 4,  // both VBMI and VBMI2
  kHasAvx512Bf16 = 1 << 5,
  kHasDotProduct = 1 << 6,  // Arm: sdot, udot
};

// The features whose registers the operating system also saves.
uint32_t cpu_features();

}  // namespace sd
