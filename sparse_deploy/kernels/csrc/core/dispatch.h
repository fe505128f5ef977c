// SPDX-License-Identifier: Apache-2.0
// Which instruction set runs.
#pragma once

#include "types.h"

namespace sd {

const Kernels &kernels();            // chosen once
const char *dispatch_note();         // "" or why the wish in SPARSE_DEPLOY_ISA was not granted
const char *supported();             // names, best first, separated by commas

}  // namespace sd
