// SPDX-License-Identifier: Apache-2.0
#include "layout.h"

namespace sd {

const Layout *const kLayouts[] = {
    &kDense,     &kDenseSplit,      &kUnstructured,     &kUnstructuredNarrow4, &kUnstructuredNarrow8, &kUnstructuredNarrow16, &kOneOfTwo,
    &kBlock4x1,  &kBlock4x1Narrow4, &kBlock4x1Narrow8, &kBlock4x1Narrow16, &kBlock1x4,            nullptr};

}  // namespace sd
