// SPDX-License-Identifier: Apache-2.0
// How the steps of a layer are shared out to the threads of a pool.
#pragma once

#include "layer_steps.h"

namespace sd {

// The pool's threads take blocks of tokens through all steps, and meet once, before attention: it reads the keys and
// values of other tokens.
void run_by_tokens(const LayerCall &call, const sd_pool *pool);

// Few tokens: the threads share out columns and heads, and meet after every such step. What is cheap (LayerNorm and
// quantization of a few rows) each of them does for itself instead of waiting. `buffer` has column_bytes() to take.
void run_by_columns(const LayerCall &call, Buffer &buffer, const sd_pool *pool);
size_t column_bytes(const EncoderLayer &layer, int64_t rows);

}  // namespace sd
