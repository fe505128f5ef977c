// SPDX-License-Identifier: Apache-2.0
// A weight as model files store it, in its compact form (docs/sparse_operators.md), read back into an int8 matrix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "matrix.h"

namespace sd {

// The most input channels of a weight: layouts store positions in 16 bits, and a sum of so many products of u8 and s8
// stays inside int32 (65,535 * 255 * 127 < 2^31).
constexpr int64_t kMostInputs = 65535;

// Returns "" or the error of the blob. Never reads beyond its end.
std::string read_stored_weight(const uint8_t *blob, size_t size, Matrix &matrix);

}  // namespace sd
