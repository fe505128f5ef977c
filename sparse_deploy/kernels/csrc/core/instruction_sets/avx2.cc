// SPDX-License-Identifier: Apache-2.0
// AVX2 and FMA, without VNNI.
// flags: -mavx2 -mfma -mf16c
#include "../instruction_set.h"

#include <immintrin.h>

#include "sparse_deploy_kernels.h"

namespace sd {
namespace avx2 {
#include "../kernels/common.h"
#include "../kernels/matmul_avx2.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kU8, .cost = 1, .max_tokens = 2, .multiply = multiply_tile<DenseTile, 2>},
};

}  // namespace avx2

extern const InstructionSet kAvx2;
constinit const InstructionSet kAvx2 = avx2::describe("avx2", kHasAvx2, avx2::kKernels);

}  // namespace sd
