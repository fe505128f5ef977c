// SPDX-License-Identifier: Apache-2.0
// The growing parts of a packed weight, which are later copied into one block of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sd {

struct Streams {
  std::vector<uint8_t> data, index;
  std::vector<uint16_t> meta;
  std::vector<int64_t> first{0};
  int32_t parts = 1;         // entries of `first` per group
  int32_t window_steps = 0;  // steps of a window, if constant for the whole matrix

  // Appends zeros; returns their start.
  static size_t grow(std::vector<uint8_t> &bytes, size_t by) {
    const size_t start = bytes.size();
    bytes.resize(start + by, 0);
    return start;
  }
  size_t add(size_t bytes) { return grow(data, bytes); }
  void put(size_t at, int8_t value) { data[at] = static_cast<uint8_t>(value); }
  // Ends a group, or a part of a group, of `steps` steps.
  void end_group(int64_t steps) { first.push_back(first.back() + steps); }
};

}  // namespace sd
