// SPDX-License-Identifier: Apache-2.0
#include "choice.h"

#include <cstdlib>
#include <string>

namespace sd {
namespace {

bool supported(const InstructionSet &set) {
  static const uint32_t features = cpu_features();
  return (set.needs & features) == set.needs;
}

struct Choice {
  const InstructionSet *set = nullptr;
  std::string note, names;

  Choice() {
    const char *variable = std::getenv("SPARSE_DEPLOY_ISA");
    const std::string wish = variable ? variable : "";
    const InstructionSet *best = nullptr;
    bool known = false;
    for (const InstructionSet *const *at = kInstructionSets; *at; ++at) {
      const bool wished = wish == (*at)->name;
      known |= wished;
      if (!supported(**at)) continue;
      if (!best) best = *at;
      if (wished) set = *at;
      names += (names.empty() ? "" : ",") + std::string((*at)->name);
    }
    const bool granted = set;
    if (!granted) set = best;  // portable at least
    if (!wish.empty() && !granted)
      note = "SPARSE_DEPLOY_ISA=" + wish + (known ? " is not supported by this CPU" : " is unknown") +
             "; expected one of " + names + "; running " + set->name;
  }
};

const Choice &choice() {
  static const Choice chosen;
  return chosen;
}

}  // namespace

const InstructionSet &default_set() { return *choice().set; }

const InstructionSet *find_set(const char *name) {
  if (!name || !*name) return &default_set();
  for (const InstructionSet *const *at = kInstructionSets; *at; ++at)
    if (std::string(name) == (*at)->name && supported(**at)) return *at;
  return nullptr;
}

const char *choice_note() { return choice().note.c_str(); }
const char *supported_sets() { return choice().names.c_str(); }

}  // namespace sd
