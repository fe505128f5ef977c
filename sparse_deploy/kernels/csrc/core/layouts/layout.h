// SPDX-License-Identifier: Apache-2.0
// The interface of a weight layout. Each layout has a file in this folder that defines one Layout; a new layout is a
// new file, a declaration here and a line in layouts.cc.
//
// The instruction sets' translation units include this header, so it holds plain data only (see types.h).
#pragma once

#include <stdint.h>

namespace sd {

struct Matrix;
struct Packed;
struct Streams;
struct Survey;

// Stored form of a product's activations: value + zero point in 0 ... 255, or the same minus 128.
enum QuantizedType : int32_t { kU8 = 0, kS8 };

// Requirements of an instruction set's kernel on the weights.
struct PackRules {
  // 0, or the number of products that the kernel adds in a saturating signed 16-bit lane: 2 (vpmaddubsw, of weights 2i
  // and 2i + 1 of every four) or, for 1x4 blocks, 4 (the same of the two units of a step). Weights whose products could
  // exceed -32768 ... 32767 must not share a lane.
  int32_t lane_weights = 0;
};

struct Layout {
  const char *name;
  int32_t group_rows;  // output channels per group: 16, 32 or 64
  int32_t step_bytes;  // bytes of a step in Packed::data
  int32_t step_slots;  // multiply-adds of a step, for one token

  // Estimate of slots / (n * k) before packing, used only to choose the layout. More than 1 if the layout cannot
  // represent the matrix or does not use its zeros.
  double (*expected_fill)(const Survey &);
  // Null, or the reason why the layout cannot represent the matrix.
  const char *(*pack)(const Matrix &, const Survey &, const PackRules &, Streams &);
  // Unpacks the matrix, row-major; w is all zeros before the call.
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
