// SPDX-License-Identifier: Apache-2.0
// Arm with the dot product instructions (Armv8.2-A and later: Neoverse N1, Graviton 2, Ampere Altra, Apple M1). They
// multiply s8 by s8, so 128 is subtracted from the stored activations. Not measured on hardware: the costs are
// estimated from the instructions of the inner loops, for a core that starts four per cycle and has two vector pipes,
// such as Neoverse N1. An sdot computes 16 products; per sdot, dense has 0.4 other instructions, unstructured 1 tbl and
// 2.9 others, 4x1 0.25 tbl and 1.4 others, 1x4 1.2 others (GCC 12).
// flags for aarch64: -march=armv8.2-a+dotprod
#include "../instruction_set.h"

#include <arm_neon.h>

#include "../layouts/block_1x4.h"
#include "sparse_deploy_kernels.h"
#define SD_SIGNED_ACTIVATIONS

namespace sd {
namespace dotprod {
#include "../kernels/common.h"
#include "../kernels/tile.h"
#include "../kernels/dot.h"
#include "../kernels/matmul_dense_arm.h"
#include "../kernels/matmul_narrow.h"
#include "../kernels/matmul_block_1x4.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kS8, .cost = 1, .max_tokens = 4, .multiply = multiply_tile<DenseTile, 4>},
    {.layout = &kUnstructuredNarrow4, .type = kS8, .cost = 2.45, .max_tokens = 12,
     .multiply = multiply_tile<UnstructuredNarrowTile, 12>},
    {.layout = &kBlock4x1Narrow4, .type = kS8, .cost = 1.35, .max_tokens = 4,
     .multiply = multiply_tile<Block4x1NarrowTile, 4>},
    {.layout = &kBlock1x4, .type = kS8, .cost = 1.1, .max_tokens = 64, .multiply = multiply_block_1x4,
     .chunk_columns = 768, .scratch = kPanelDwords, .scratch_per_column = 64},
};

}  // namespace dotprod

extern const InstructionSet kDotProduct;
constinit const InstructionSet kDotProduct = dotprod::describe("dotprod", kHasDotProduct, dotprod::kKernels);

}  // namespace sd
