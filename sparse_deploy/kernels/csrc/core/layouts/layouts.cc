// SPDX-License-Identifier: Apache-2.0
#include "layout.h"

namespace sd {

const Layout *const kLayouts[] = {&kDense, &kUnstructured, &kOneOfTwo, &kBlock4x1, &kBlock1x4, nullptr};

}  // namespace sd
