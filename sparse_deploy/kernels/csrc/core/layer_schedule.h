// SPDX-License-Identifier: Apache-2.0
// Distribution of a layer's steps over the threads of a pool.
#pragma once

#include "layer_steps.h"

namespace sd {

// Runs all steps: before attention over all tokens, from attention on over the rows of the output. The threads
// synchronize between the two halves, because attention reads the keys and values of other tokens. Each half is
// distributed
// - by tokens: a thread computes all steps of the half for blocks of rows, or
// - if there are few rows, by columns: columns and heads are distributed over the threads, which synchronize after
//   every such step. Each thread repeats short work (LayerNorm and quantization of a few rows) instead of waiting.
// `buffer` must have schedule_bytes() reserved.
void run_steps(const LayerCall &call, Buffer &buffer, const sd_pool *pool);
size_t schedule_bytes(const EncoderLayer &layer, const Batch &batch, const sd_pool *pool);

}  // namespace sd
