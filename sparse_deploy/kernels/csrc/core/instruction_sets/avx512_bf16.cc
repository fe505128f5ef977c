// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI, VBMI and BF16 (Zen 4 and later, Sapphire Rapids).
// flags for x86_64: -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c -mprefer-vector-width=512 -mavx512vbmi -mavx512vbmi2 -mavx512bf16
#include "../instruction_set.h"

#include <immintrin.h>

#include "../layouts/block_1x4.h"
#include "sparse_deploy_kernels.h"
#define SD_VBMI
#define SD_BF16

namespace sd {
namespace avx512_bf16 {
#include "../kernels/common.h"
#include "../kernels/tile.h"
#include "../kernels/dot.h"
#include "../kernels/matmul_avx512.h"
#include "../kernels/matmul_block_1x4.h"
#include "../kernels/attention_int8.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kU8, .cost = 1, .max_tokens = 6, .multiply = multiply_tile<DenseTile, 6>},
    {.layout = &kUnstructured, .type = kU8, .cost = 1.42, .max_tokens = 12,
     .multiply = multiply_tile<UnstructuredTile, 12>},
    {.layout = &kOneOfTwo, .type = kU8, .cost = 1.42, .max_tokens = 12, .multiply = multiply_tile<OneOfTwoTile, 12>},
    {.layout = &kBlock4x1, .type = kU8, .cost = 1.05, .max_tokens = 6, .multiply = multiply_tile<Block4x1Tile, 6>},
    {.layout = &kBlock1x4, .type = kU8, .cost = 1.42, .max_tokens = 64, .multiply = multiply_block_1x4,
     .chunk_columns = 768, .scratch = kPanelDwords, .scratch_per_column = 64},
};

}  // namespace avx512_bf16

extern const InstructionSet kAvx512Bf16;
constinit const InstructionSet kAvx512Bf16 = avx512_bf16::with_attention_int8(avx512_bf16::describe(
    "avx512_bf16", kHasAvx2 | kHasAvx512 | kHasAvx512Vnni | kHasAvx512Vbmi | kHasAvx512Bf16, avx512_bf16::kKernels));

}  // namespace sd
