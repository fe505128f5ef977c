// SPDX-License-Identifier: Apache-2.0
// AVX2 and FMA, without an 8-bit dot product.
// flags for x86_64: -mavx2 -mfma -mf16c
#include "../instruction_set.h"

#include <immintrin.h>

#include "../layouts/block_1x4.h"
#include "sparse_deploy_kernels.h"

namespace sd {
namespace avx2 {
#include "../kernels/common.h"
#include "../kernels/tile.h"
#include "../kernels/dot.h"
#include "../kernels/matmul_dense_split.h"
#include "../kernels/matmul_narrow.h"
#include "../kernels/matmul_block_1x4.h"
#include "../kernels/attention_int8.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDenseSplit, .type = kU8, .cost = 1, .max_tokens = 6, .multiply = multiply_tile<DenseSplitTile, 6>,
     .scratch = 6 * 24, .scratch_per_k = 3},
    {.layout = &kUnstructuredNarrow8, .type = kU8, .cost = 1.35, .max_tokens = 9,
     .multiply = multiply_tile<UnstructuredNarrowTile, 9>, .rules = {.lane_weights = 2}},
    {.layout = &kBlock4x1Narrow8, .type = kU8, .cost = 1.15, .max_tokens = 3,
     .multiply = multiply_tile<Block4x1NarrowTile, 3>, .rules = {.lane_weights = 2}},
    {.layout = &kBlock1x4, .type = kU8, .cost = 1.1, .max_tokens = 64, .multiply = multiply_block_1x4,
     .rules = {.lane_weights = 4}, .chunk_columns = 768, .scratch = kPanelDwords, .scratch_per_column = 64},
};

}  // namespace avx2

extern const InstructionSet kAvx2;
constinit const InstructionSet kAvx2 = avx2::with_attention_int8(avx2::describe("avx2", kHasAvx2, avx2::kKernels));

}  // namespace sd
