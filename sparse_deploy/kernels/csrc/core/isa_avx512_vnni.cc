// SPDX-License-Identifier: Apache-2.0
// AVX-512 with VNNI, without VBMI (Cascade Lake, Cooper Lake): dense and 1x4 blocks.
#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#include "types.h"

namespace sd {
namespace avx512_vnni {
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_generic.h"
#include "matmul_avx512.h"
#include "attention_int8.h"
}  // namespace avx512_vnni

const Kernels kAvx512Vnni = {
    "avx512_vnni",
    sizeof(avx512_vnni::Compact),
    {6, 4, 4, 4, 64},
    {1, 40, 40, 40, 1.45},
    {avx512_vnni::multiply_tile<avx512_vnni::DenseTile, 6>, avx512_vnni::multiply_generic<kUnstructured>,
     avx512_vnni::multiply_generic<kHalf>, avx512_vnni::multiply_generic<kBlock4x1>,
     avx512_vnni::multiply_block_1x4},
    avx512_vnni::quantize,
    avx512_vnni::layer_norm,
    avx512_vnni::attention_scratch,
    avx512_vnni::attention,
    avx512_vnni::quantize_heads,
    avx512_vnni::attention_int8_scratch,
    avx512_vnni::attention_int8};
}  // namespace sd
