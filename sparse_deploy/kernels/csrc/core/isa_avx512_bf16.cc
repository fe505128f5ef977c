// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI, VBMI and BF16 (Zen 4 and later, Sapphire Rapids).
#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#include "types.h"
#define SD_VBMI
#define SD_BF16

namespace sd {
namespace avx512_bf16 {
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_generic.h"
#include "matmul_avx512.h"
#include "attention_int8.h"
}  // namespace avx512_bf16

const Kernels kAvx512Bf16 = {
    "avx512_bf16",
    sizeof(avx512_bf16::Compact),
    {6, 12, 12, 6, 64},
    {1, 1.42, 1.42, 1.05, 1.42},
    {avx512_bf16::multiply_tile<avx512_bf16::DenseTile, 6>,
     avx512_bf16::multiply_tile<avx512_bf16::UnstructuredTile, 12>,
     avx512_bf16::multiply_tile<avx512_bf16::HalfTile, 12>,
     avx512_bf16::multiply_tile<avx512_bf16::Block4x1Tile, 6>,
     avx512_bf16::multiply_block_1x4},
    avx512_bf16::quantize,
    avx512_bf16::layer_norm,
    avx512_bf16::attention_scratch,
    avx512_bf16::attention,
    avx512_bf16::quantize_heads,
    avx512_bf16::attention_int8_scratch,
    avx512_bf16::attention_int8};
}  // namespace sd
