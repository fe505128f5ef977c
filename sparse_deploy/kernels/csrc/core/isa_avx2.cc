// SPDX-License-Identifier: Apache-2.0
// AVX2 and FMA, without VNNI.
#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#include "types.h"

namespace sd {
namespace avx2 {
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_generic.h"
#include "matmul_avx2.h"
}  // namespace avx2

const Kernels kAvx2 = {
    "avx2",
    sizeof(avx2::Compact),
    {2, 4, 4, 4, 4},
    {1, 12, 12, 12, 12},
    {avx2::multiply_tile<avx2::DenseTile, 2>, avx2::multiply_generic<kUnstructured>, avx2::multiply_generic<kHalf>,
     avx2::multiply_generic<kBlock4x1>, avx2::multiply_generic<kBlock1x4>},
    avx2::quantize,
    avx2::layer_norm,
    avx2::attention_scratch,
    avx2::attention,
    nullptr,
    nullptr,
    nullptr};
}  // namespace sd
