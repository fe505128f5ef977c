// SPDX-License-Identifier: Apache-2.0
// Reads a weight in the compact form of model files (docs/sparse_operators.md) into an int8 matrix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "matrix.h"

namespace sd {

// Largest number of input channels of a weight: layouts store positions in 16 bits, and a sum of this many products of
// u8 and s8 fits int32 (65,535 * 255 * 127 < 2^31).
constexpr int64_t kMostInputs = 65535;

// Returns "" or the error of the blob. Never reads past the end of the blob.
std::string read_stored_weight(const uint8_t *blob, size_t size, Matrix &matrix);

}  // namespace sd
