// SPDX-License-Identifier: Apache-2.0
#include "../instruction_set.h"

namespace sd {

#if defined(SPARSE_DEPLOY_PORTABLE)
#elif defined(__x86_64__)
extern const InstructionSet kAvx2, kAvx2Vnni, kAvx512Vnni, kAvx512Vbmi, kAvx512Bf16;
#elif defined(__aarch64__)
extern const InstructionSet kDotProduct;
#endif
extern const InstructionSet kPortable;

const InstructionSet *const kInstructionSets[] = {
#if defined(SPARSE_DEPLOY_PORTABLE)
#elif defined(__x86_64__)
    &kAvx512Bf16, &kAvx512Vbmi, &kAvx512Vnni, &kAvx2Vnni, &kAvx2,
#elif defined(__aarch64__)
    &kDotProduct,
#endif
    &kPortable, nullptr};

}  // namespace sd
