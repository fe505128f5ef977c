// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI and VBMI (Ice Lake): all sparse kernels, attention in float.
// flags for x86_64: -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c -mprefer-vector-width=512 -mavx512vbmi -mavx512vbmi2
#include "../instruction_set.h"

#include <immintrin.h>

#include "../layouts/block_1x4.h"
#include "sparse_deploy_kernels.h"
#define SD_VBMI

namespace sd {
namespace avx512_vbmi {
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

}  // namespace avx512_vbmi

extern const InstructionSet kAvx512Vbmi;
constinit const InstructionSet kAvx512Vbmi = avx512_vbmi::with_attention_int8(avx512_vbmi::describe(
    "avx512_vbmi", kHasAvx2 | kHasAvx512 | kHasAvx512Vnni | kHasAvx512Vbmi, avx512_vbmi::kKernels));

}  // namespace sd
