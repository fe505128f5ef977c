// SPDX-License-Identifier: Apache-2.0
// AVX2 with AVX-VNNI.
// flags for x86_64: -mavx2 -mfma -mf16c -mavxvnni
#include "../instruction_set.h"

#include <immintrin.h>

#include "../layouts/block_1x4.h"
#include "sparse_deploy_kernels.h"
#define SD_AVX_VNNI

namespace sd {
namespace avx2_vnni {
#include "../kernels/common.h"
#include "../kernels/tile.h"
#include "../kernels/dot.h"
#include "../kernels/matmul_dense.h"
#include "../kernels/matmul_narrow.h"
#include "../kernels/matmul_block_1x4.h"
#include "../kernels/attention_int8.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kU8, .cost = 1, .max_tokens = 6, .multiply = multiply_tile<DenseTile, 6>},
    {.layout = &kUnstructuredNarrow8, .type = kU8, .cost = 1.6, .max_tokens = 11,
     .multiply = multiply_tile<UnstructuredNarrowTile, 11>},
    {.layout = &kBlock4x1Narrow8, .type = kU8, .cost = 1.5, .max_tokens = 3,
     .multiply = multiply_tile<Block4x1NarrowTile, 3>},
    {.layout = &kBlock1x4, .type = kU8, .cost = 1.5, .max_tokens = 64, .multiply = multiply_block_1x4,
     .chunk_columns = 768, .scratch = kPanelDwords, .scratch_per_column = 64},
};

}  // namespace avx2_vnni

extern const InstructionSet kAvx2Vnni;
constinit const InstructionSet kAvx2Vnni = avx2_vnni::with_attention_int8(
    avx2_vnni::describe("avx2_vnni", kHasAvx2 | kHasAvxVnni, avx2_vnni::kKernels));

}  // namespace sd
