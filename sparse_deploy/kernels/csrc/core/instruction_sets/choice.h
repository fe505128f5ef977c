// SPDX-License-Identifier: Apache-2.0
// Which instruction set computes.
#pragma once

#include "../instruction_set.h"

namespace sd {

// The best one that this CPU has, or the one that SPARSE_DEPLOY_ISA names; chosen once.
const InstructionSet &default_set();
// By name; the default one for null or "". Null where it is unknown or this CPU lacks it.
const InstructionSet *find_set(const char *name);

const char *choice_note();      // "" or why the wish in SPARSE_DEPLOY_ISA was not granted
const char *supported_sets();   // names, best first, separated by commas

}  // namespace sd
