// SPDX-License-Identifier: Apache-2.0
// Choice of the instruction set.
#pragma once

#include "../instruction_set.h"

namespace sd {

// The best set that this CPU supports, or the set of SPARSE_DEPLOY_ISA; chosen once.
const InstructionSet &default_set();
// A set by name; the default for null or "". Null if it is unknown or this CPU does not support it.
const InstructionSet *find_set(const char *name);

const char *choice_note();      // "" or the reason why SPARSE_DEPLOY_ISA was not used
const char *supported_sets();   // names, best first, separated by commas

}  // namespace sd
