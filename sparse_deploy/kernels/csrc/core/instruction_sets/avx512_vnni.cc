// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI, without VBMI (Cascade Lake, Cooper Lake).
// flags for x86_64: -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c -mprefer-vector-width=512
#include "../instruction_set.h"

#include <immintrin.h>

#include "../layouts/block_1x4.h"
#include "sparse_deploy_kernels.h"

namespace sd {
namespace avx512_vnni {
#include "../kernels/common.h"
#include "../kernels/tile.h"
#include "../kernels/dot.h"
#include "../kernels/matmul_avx512.h"
#include "../kernels/matmul_narrow.h"
#include "../kernels/matmul_block_1x4.h"
#include "../kernels/attention_int8.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kU8, .cost = 1, .max_tokens = 6, .multiply = multiply_tile<DenseTile, 6>},
    {.layout = &kUnstructuredNarrow16, .type = kU8, .cost = 2, .max_tokens = 12,
     .multiply = multiply_tile<UnstructuredNarrowTile, 12>},
    {.layout = &kBlock4x1Narrow16, .type = kU8, .cost = 1.45, .max_tokens = 6,
     .multiply = multiply_tile<Block4x1NarrowTile, 6>},
    {.layout = &kBlock1x4, .type = kU8, .cost = 1.45, .max_tokens = 64, .multiply = multiply_block_1x4,
     .chunk_columns = 768, .scratch = kPanelDwords, .scratch_per_column = 64},
};

}  // namespace avx512_vnni

extern const InstructionSet kAvx512Vnni;
constinit const InstructionSet kAvx512Vnni = avx512_vnni::with_attention_int8(avx512_vnni::describe(
    "avx512_vnni", kHasAvx2 | kHasAvx512 | kHasAvx512Vnni, avx512_vnni::kKernels));

}  // namespace sd
