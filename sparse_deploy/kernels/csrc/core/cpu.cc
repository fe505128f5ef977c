// SPDX-License-Identifier: Apache-2.0
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace sd {
namespace {

constexpr uint32_t bit(bool there, Feature feature) { return there ? static_cast<uint32_t>(feature) : 0; }

}  // namespace

#if defined(__x86_64__)
uint32_t cpu_features() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;  // OSXSAVE
  const bool fma = c >> 12 & 1, f16c = c >> 29 & 1;
  // XCR0 has the registers that the operating system saves: 0x6 for ymm, 0xe6 for zmm and masks.
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  unsigned a1 = 0, b1, c1, d1;
  if (!__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) a1 = 0;
  const bool f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
  uint32_t found = bit((b >> 5 & 1) && fma && f16c, kHasAvx2) | bit(a1 >> 4 & 1, kHasAvxVnni);
  if ((low & 0xe6) == 0xe6)
    found |= bit(f && dq && bw && vl, kHasAvx512) | bit(c >> 11 & 1, kHasAvx512Vnni) |
             bit((c >> 1 & 1) && (c >> 6 & 1), kHasAvx512Vbmi) | bit(a1 >> 5 & 1, kHasAvx512Bf16);
#ifdef SPARSE_DEPLOY_EVEX
  if (found & kHasAvx512Vnni) found |= kHasAvxVnni;
#endif
  return found;
}
#elif defined(__aarch64__)
uint32_t cpu_features() {
  constexpr unsigned long kAsimdDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return bit(getauxval(AT_HWCAP) & kAsimdDotProduct, kHasDotProduct);
}
#else
uint32_t cpu_features() { return 0; }
#endif

}  // namespace sd
