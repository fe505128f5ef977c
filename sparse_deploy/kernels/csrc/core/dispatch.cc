// SPDX-License-Identifier: Apache-2.0
#include "dispatch.h"

#include <cpuid.h>

#include <cstdlib>
#include <string>

namespace sd {
namespace {

struct Cpu {
  bool avx2 = false, avx_vnni = false, avx512_vnni = false, vbmi = false, bf16 = false;

  Cpu() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return;  // OSXSAVE
    const bool fma = c >> 12 & 1, f16c = c >> 29 & 1;
    // XCR0 says which registers the operating system saves: 0x6 for ymm, 0xe6 for zmm and masks.
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    avx2 = (b >> 5 & 1) && fma && f16c;
    unsigned a1 = 0, b1, c1, d1;
    if (!__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) a1 = 0;
    avx_vnni = avx2 && (a1 >> 4 & 1);
    if ((low & 0xe6) != 0xe6) return;
    const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
    avx512_vnni = avx2 && f && dq && bw && vl && (c >> 11 & 1);
    vbmi = avx512_vnni && (c >> 1 & 1) && (c >> 6 & 1);
    bf16 = vbmi && (a1 >> 5 & 1);
  }
};

struct Choice {
  const Kernels *kernels = &kPortable;
  std::string note, names;

  Choice() {
    const Cpu cpu;
    const struct {
      const Kernels *kernels;
      bool there;
    } sets[] = {{&kAvx512Bf16, cpu.bf16},  {&kAvx512Vbmi, cpu.vbmi}, {&kAvx512Vnni, cpu.avx512_vnni},
                {&kAvx2Vnni, cpu.avx_vnni}, {&kAvx2, cpu.avx2},       {&kPortable, true}};
    const char *wish = std::getenv("SPARSE_DEPLOY_ISA");
    const Kernels *best = nullptr, *wished = nullptr;
    bool known = false;
    for (const auto &set : sets) {
      const bool named = wish && *wish && std::string(wish) == set.kernels->name;
      known |= named;
      if (!set.there) continue;
      if (!best) best = set.kernels;
      if (named) wished = set.kernels;
      names += (names.empty() ? "" : ",") + std::string(set.kernels->name);
    }
    kernels = wished ? wished : best;
    if (wish && *wish && !wished)
      note = std::string("SPARSE_DEPLOY_ISA=") + wish + (known ? " is not supported by this CPU" : " is unknown") +
             "; expected one of " + names + "; running " + kernels->name;
  }
};

const Choice &choice() {
  static const Choice chosen;
  return chosen;
}

}  // namespace

const Kernels &kernels() { return *choice().kernels; }
const char *dispatch_note() { return choice().note.c_str(); }
const char *supported() { return choice().names.c_str(); }

}  // namespace sd
