// SPDX-License-Identifier: Apache-2.0
// For every CPU: plain C++ over 16 lanes, vectorized by the compiler.
#include "../instruction_set.h"

#include "sparse_deploy_kernels.h"

namespace sd {
namespace portable {
#include "../kernels/common.h"

constexpr LayoutKernel kKernels[] = {
    {.layout = &kDense, .type = kU8, .cost = 1, .max_tokens = 4, .multiply = multiply_reference<kU8>},
};

}  // namespace portable

extern const InstructionSet kPortable;
constinit const InstructionSet kPortable = portable::describe("portable", 0, portable::kKernels);

}  // namespace sd
