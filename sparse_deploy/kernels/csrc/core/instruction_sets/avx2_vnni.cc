// SPDX-License-Identifier: Apache-2.0
// AVX2 with AVX-VNNI.
// flags: -mavx2 -mfma -mf16c -mavxvnni
#include "../instruction_set.h"

#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#define SD_AVX_VNNI

namespace sd {
namespace avx2_vnni {
#include "../kernels/common.h"
#include "../kernels/matmul_avx2.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kU8, .cost = 1, .max_tokens = 4, .multiply = multiply_tile<DenseTile, 4>},
};

}  // namespace avx2_vnni

extern const InstructionSet kAvx2Vnni;
constinit const InstructionSet kAvx2Vnni = avx2_vnni::describe("avx2_vnni", kHasAvx2 | kHasAvxVnni, avx2_vnni::kKernels);

}  // namespace sd
