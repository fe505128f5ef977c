// SPDX-License-Identifier: Apache-2.0
// How the steps of a layer are shared out to the threads of a pool.
#pragma once

#include "layer_steps.h"

namespace sd {

// Runs all steps: up to attention over all tokens, from there on over the rows of the output. The threads meet between
// the two halves, because attention reads the keys and values of other tokens. Each half is shared out
// - by tokens: a thread takes blocks of rows through all steps of the half, or
// - where there are few rows, by columns: columns and heads are distributed over the threads, which synchronize after
//   every such step. Each thread repeats short work (LayerNorm and quantization of a few rows) instead of waiting.
// `buffer` has schedule_bytes() to take.
void run_steps(const LayerCall &call, Buffer &buffer, const sd_pool *pool);
size_t schedule_bytes(const EncoderLayer &layer, const Batch &batch, const sd_pool *pool);

}  // namespace sd
