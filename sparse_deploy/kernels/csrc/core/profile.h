// SPDX-License-Identifier: Apache-2.0
// Time per part, if SPARSE_DEPLOY_PROFILE=1.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sd {

enum Part {
  kQuantizeInput, kQueryKeyValue, kAttention, kQuantizeAttention, kAttentionOutput, kAttentionNorm, kIntermediate,
  kQuantizeIntermediate, kOutput, kOutputNorm, kLinearQuantize, kLinearMultiply, kParts
};

// Adds the time of a scope to a part.
class Timed {
 public:
  explicit Timed(Part part);
  ~Timed();
  Timed(const Timed &) = delete;
  Timed &operator=(const Timed &) = delete;

 private:
  Part part_;
  int64_t start_;
};

// "name seconds\n" per part since the last call; returns the required length including the zero byte.
size_t read_profile(char *text, size_t size);

}  // namespace sd
