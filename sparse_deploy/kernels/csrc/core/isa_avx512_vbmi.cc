// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI and VBMI (Ice Lake): all sparse kernels, attention in float.
#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#include "types.h"
#define SD_VBMI

namespace sd {
namespace avx512_vbmi {
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_generic.h"
#include "matmul_avx512.h"
#include "attention_int8.h"
}  // namespace avx512_vbmi

const Kernels kAvx512Vbmi = {
    "avx512_vbmi",
    sizeof(avx512_vbmi::Compact),
    {6, 12, 12, 6, 64},
    {1, 1.42, 1.42, 1.05, 1.42},
    {avx512_vbmi::multiply_tile<avx512_vbmi::DenseTile, 6>,
     avx512_vbmi::multiply_tile<avx512_vbmi::UnstructuredTile, 12>,
     avx512_vbmi::multiply_tile<avx512_vbmi::HalfTile, 12>,
     avx512_vbmi::multiply_tile<avx512_vbmi::Block4x1Tile, 6>,
     avx512_vbmi::multiply_block_1x4},
    avx512_vbmi::quantize,
    avx512_vbmi::layer_norm,
    avx512_vbmi::attention_scratch,
    avx512_vbmi::attention,
    avx512_vbmi::quantize_heads,
    avx512_vbmi::attention_int8_scratch,
    avx512_vbmi::attention_int8};
}  // namespace sd
