// SPDX-License-Identifier: Apache-2.0
// AVX2 with AVX-VNNI.
#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#include "types.h"
#define SD_AVX_VNNI

namespace sd {
namespace avx2_vnni {
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_generic.h"
#include "matmul_avx2.h"
}  // namespace avx2_vnni

const Kernels kAvx2Vnni = {
    "avx2_vnni",
    sizeof(avx2_vnni::Compact),
    {4, 4, 4, 4, 4},
    {1, 20, 20, 20, 20},
    {avx2_vnni::multiply_tile<avx2_vnni::DenseTile, 4>, avx2_vnni::multiply_generic<kUnstructured>,
     avx2_vnni::multiply_generic<kHalf>, avx2_vnni::multiply_generic<kBlock4x1>,
     avx2_vnni::multiply_generic<kBlock1x4>},
    avx2_vnni::quantize,
    avx2_vnni::layer_norm,
    avx2_vnni::attention_scratch,
    avx2_vnni::attention,
    nullptr,
    nullptr,
    nullptr};
}  // namespace sd
