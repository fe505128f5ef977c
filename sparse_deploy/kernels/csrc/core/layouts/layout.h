// SPDX-License-Identifier: Apache-2.0
// The interface of a layout of packed weights. Each has its own file in this folder, which defines one Layout; a new
// one is a new file, a declaration here and a line in layouts.cc.
//
// The instruction sets' translation units include this header, so it holds plain data only (see types.h).
#pragma once

#include <stdint.h>

namespace sd {

struct Matrix;
struct Packed;
struct Streams;
struct Survey;

// How the activations of a product are stored: value + zero point in 0 ... 255, or the same less 128.
enum QuantizedType : int32_t { kU8 = 0, kS8 };

// Requirements of the kernel of an instruction set on its weights.
struct PackRules {
  // 0, or how many products the kernel adds in a signed 16-bit lane that saturates: 2 (vpmaddubsw, of weights 2i and
  // 2i + 1 of each four) or, for 1x4 blocks, 4 (the same of the two units of a step). The packer must not let weights
  // share a lane whose products could leave -32768 ... 32767.
  int32_t lane_weights = 0;
};

struct Layout {
  const char *name;
  int32_t group_rows;  // output channels that are packed together: 16, 32 or 64
  int32_t step_bytes;  // of a step in Packed::data
  int32_t step_slots;  // multiply-adds of a step, for one token

  // Slots / (n * k) for a matrix that has not been packed, roughly: it decides only which layout is packed. More than 1
  // where the layout can't hold the matrix or has no use for its zeros.
  double (*expected_fill)(const Survey &);
  // Null, or why the layout can't hold the matrix.
  const char *(*pack)(const Matrix &, const Survey &, const PackRules &, Streams &);
  // The matrix back from its packed form, row-major; w is all zeros.
  void (*unpack)(const Packed &, int8_t *w);
  // The reference product: sums[r] += (row r of the group) . x, for the layout's group_rows. x is one token; it is
  // readable up to the next multiple of 128 past k.
  void (*multiply)(const Packed &, int64_t group, const uint8_t *x, QuantizedType, int32_t *sums);
};

extern const Layout kDense, kDenseSplit, kUnstructured, kUnstructuredNarrow4, kUnstructuredNarrow8, kUnstructuredNarrow16,
    kOneOfTwo, kBlock4x1, kBlock4x1Narrow4, kBlock4x1Narrow8, kBlock4x1Narrow16, kBlock1x4;

// All layouts, ended by null.
extern const Layout *const kLayouts[];

}  // namespace sd
