// SPDX-License-Identifier: Apache-2.0
// The common parts of every instruction set, and its table. The file of a set includes this file inside its namespace,
// after the definitions of its features (SD_AVX_VNNI, SD_VBMI, SD_BF16, SD_SIGNED_ACTIVATIONS), and then its products.
#include "simd.h"
#include "epilogue.h"
#include "rowwise.h"
#include "transpose.h"
#include "attention.h"
#include "matmul_reference.h"

#ifdef SD_SIGNED_ACTIVATIONS
constexpr QuantizedType kStoredType = kS8;
#else
constexpr QuantizedType kStoredType = kU8;
#endif

// The table, without INT8 attention.
template <int kCount>
constexpr InstructionSet describe(const char *name, uint32_t needs, const LayoutKernel (&kernels)[kCount]) {
  return {.name = name,
          .needs = needs,
          .reduced_size = sizeof(Reduced),
          .type = kStoredType,
          .kernels = kernels,
          .kernel_count = kCount,
          .multiply_reference = multiply_reference<kStoredType>,
          .quantize = quantize,
          .layer_norm = layer_norm,
          .restore = restore,
          .gate = gate,
          .rotate = rotate,
          .attention_scratch = attention_scratch,
          .attention = attention,
          .quantize_heads = nullptr,
          .attention_int8_scratch = nullptr,
          .attention_int8 = nullptr};
}
