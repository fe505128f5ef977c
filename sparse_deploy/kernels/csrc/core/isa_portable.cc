// SPDX-License-Identifier: Apache-2.0
// What every x86-64 runs, and the reference: plain C++ over 16 lanes, whatever the compiler makes of them.
#include <immintrin.h>

#include "sparse_deploy_kernels.h"
#include "types.h"

namespace sd {
namespace portable {
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_generic.h"
}  // namespace portable

const Kernels kPortable = {
    "portable",
    sizeof(portable::Compact),
    {4, 4, 4, 4, 4},
    // A slot of a sparse layout is a scalar lookup and multiplication; the dense loop is vectorised.
    {1, 6, 6, 6, 6},
    {portable::multiply_generic<kDense>, portable::multiply_generic<kUnstructured>, portable::multiply_generic<kHalf>,
     portable::multiply_generic<kBlock4x1>, portable::multiply_generic<kBlock1x4>},
    portable::quantize,
    portable::layer_norm,
    portable::attention_scratch,
    portable::attention,
    nullptr,
    nullptr,
    nullptr};
}  // namespace sd
