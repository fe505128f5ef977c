// SPDX-License-Identifier: Apache-2.0
// y = act(x Wᵀ + b) on u8 activations: one packed weight with the data of its epilogue.
#pragma once

#include <string>
#include <vector>

#include "weight.h"
#include "parallel.h"
#include "sparse_deploy_kernels.h"

namespace sd {

struct LinearWeights {
  Weight weight;
  std::vector<float> scale, bias, sum;  // padded to 64
  sd_activation activation = SD_ACTIVATION_NONE;
  sd_quantization quantization{0, 0};

  int64_t n() const { return weight.packed.n; }
  int64_t k() const { return weight.packed.k; }
};

// Returns "" or an error. `layout` as in pack(); scale and bias [n] or null.
std::string build_linear(const Matrix &matrix, const float *scale, const float *bias, sd_activation activation,
                         const sd_quantization &quantization, const char *layout, const InstructionSet &set,
                         LinearWeights &linear);

// Bytes between rows of u8 activations: readable up to a multiple of 128 past k, and never a multiple of 4 KB, which
// would map all tokens of a tile to the same few sets of L1.
inline int64_t activation_stride(int64_t k) { return round_up(k, 128) + 64; }

// u8 rows and their scales.
struct Activations {
  uint8_t *x;
  int64_t stride;
  float *scale, *shift;
};

// Destination of a multiplication's outputs; token 0 is the first row of the activations.
struct Destination {
  Output output;
  void *data;       // element of column 0, token 0
  int64_t stride;
  const float *residual = nullptr;
  int64_t residual_stride = 0;
};

// Computes columns [begin, end) for all tokens; begin is a multiple of 64. The same thread multiplies `next`
// afterwards, so its first packed bytes are prefetched.
void multiply(const LinearWeights &linear, const Activations &x, int64_t tokens, int64_t begin, int64_t end,
              const Destination &to, const Packed *next = nullptr);

// float rows in, float rows out, on a pool: SparseLinear.
void run_linear(const LinearWeights &linear, const float *x, int64_t rows, float *y, const sd_pool *pool);

// int32 accumulators of u8 rows without padding.
void run_accumulators(const Weight &weight, const uint8_t *x, int64_t rows, int32_t *y, const sd_pool *pool);

// Whether tokens are distributed over the threads (each thread reads all weights, and no data moves between threads),
// or output columns (each thread reads its share of the weights: better with few tokens, when reading weights
// dominates).
bool split_by_tokens(int64_t tokens, int64_t threads);

// A block of tokens goes through all products of a layer before the next one: 96 keep the widest activations of
// bert-base (96 x 3072 x 2 bytes) inside an L2 of 1 MB.
int64_t token_blocks(int64_t tokens, int64_t threads);

}  // namespace sd
