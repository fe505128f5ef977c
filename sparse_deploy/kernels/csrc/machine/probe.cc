// SPDX-License-Identifier: Apache-2.0
// Two probes of the machine's state for sparse_deploy/measurement/machine_state.py: the latency of a cache line between
// two CPUs, and the multiply-add rate of several CPUs at the same time. The caller starts and pins the threads.
#include <atomic>
#include <chrono>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "sparse_deploy_kernels.h"

namespace {

using Clock = std::chrono::steady_clock;
using Counter = std::atomic<uint32_t>;
static_assert(sizeof(Counter) == sizeof(uint32_t));

Counter &counter(uint32_t (&line)[SD_PROBE_LINE]) { return *reinterpret_cast<Counter *>(line); }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Spins until done() holds; false if the limit has passed in this or the other thread.
template <class Done>
bool wait_until(const Done &done, Clock::time_point begin, double limit_seconds, Counter &late) {
  for (uint32_t spins = 1; !done(); ++spins)
    if (spins % 4096 == 0) {
      if (seconds_since(begin) > limit_seconds) late.store(1);
      if (late.load()) return false;
    }
  return true;
}

bool meet(Counter &arrived, uint32_t count, Clock::time_point begin, double limit_seconds, Counter &late) {
  arrived.fetch_add(1);
  return wait_until([&] { return arrived.load() >= count; }, begin, limit_seconds, late);
}

#if defined(__x86_64__)
// Eight independent chains hide the latency of 4-5 cycles; the loop is bound by the multiply-add pipes.
__attribute__((target("avx512f,avx512vnni"))) void multiply_vnni(int64_t rounds) {
  __m512i a = _mm512_set1_epi32(0x01020304), c0 = a, c1 = a, c2 = a, c3 = a, c4 = a, c5 = a, c6 = a, c7 = a;
  for (int64_t i = 0; i < rounds; ++i)
    asm volatile(
        "vpdpbusd %8, %8, %0\n\tvpdpbusd %8, %8, %1\n\tvpdpbusd %8, %8, %2\n\tvpdpbusd %8, %8, %3\n\t"
        "vpdpbusd %8, %8, %4\n\tvpdpbusd %8, %8, %5\n\tvpdpbusd %8, %8, %6\n\tvpdpbusd %8, %8, %7"
        : "+v"(c0), "+v"(c1), "+v"(c2), "+v"(c3), "+v"(c4), "+v"(c5), "+v"(c6), "+v"(c7)
        : "v"(a));
}

__attribute__((target("avx2,fma"))) void multiply_fma(int64_t rounds) {
  __m256 a = _mm256_set1_ps(0.5f), c0 = a, c1 = a, c2 = a, c3 = a, c4 = a, c5 = a, c6 = a, c7 = a;
  for (int64_t i = 0; i < rounds; ++i)
    asm volatile(
        "vfmadd231ps %8, %8, %0\n\tvfmadd231ps %8, %8, %1\n\tvfmadd231ps %8, %8, %2\n\tvfmadd231ps %8, %8, %3\n\t"
        "vfmadd231ps %8, %8, %4\n\tvfmadd231ps %8, %8, %5\n\tvfmadd231ps %8, %8, %6\n\tvfmadd231ps %8, %8, %7"
        : "+x"(c0), "+x"(c1), "+x"(c2), "+x"(c3), "+x"(c4), "+x"(c5), "+x"(c6), "+x"(c7)
        : "x"(a));
}
#endif

// Any CPU: chains of integer multiplications, which the compiler may not merge.
void multiply_integers(int64_t rounds) {
  uint64_t c0 = 1, c1 = 2, c2 = 3, c3 = 4, c4 = 5, c5 = 6, c6 = 7, c7 = 8;
  const uint64_t a = 6364136223846793005u;
  for (int64_t i = 0; i < rounds; ++i) {
    c0 = c0 * a + 1, c1 = c1 * a + 1, c2 = c2 * a + 1, c3 = c3 * a + 1;
    c4 = c4 * a + 1, c5 = c5 * a + 1, c6 = c6 * a + 1, c7 = c7 * a + 1;
    asm volatile("" : "+r"(c0), "+r"(c1), "+r"(c2), "+r"(c3), "+r"(c4), "+r"(c5), "+r"(c6), "+r"(c7));
  }
}

void multiply(int64_t rounds) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return multiply_vnni(rounds);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return multiply_fma(rounds);
#endif
  multiply_integers(rounds);
}

}  // namespace

extern "C" {

double sd_probe_ping_pong(sd_probe_memory *memory, int second, int round_trips, int repeats, double limit_seconds) {
  const auto begin = Clock::now();
  Counter &turn = counter(memory->turn), &arrived = counter(memory->arrived), &late = counter(memory->late);
  if (!meet(arrived, 2, begin, limit_seconds, late)) return -1;
  double best = -1;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto start = Clock::now();
    for (int i = 0; i < round_trips; ++i) {
      const uint32_t own = 2 * static_cast<uint32_t>(repeat * round_trips + i) + (second ? 1 : 0);
      const auto mine = [&] { return turn.load(std::memory_order_acquire) == own; };
      if (!wait_until(mine, begin, limit_seconds, late)) return best;
      turn.store(own + 1, std::memory_order_release);
    }
    const double one_way = seconds_since(start) / round_trips / 2 * 1e9;
    if (best < 0 || one_way < best) best = one_way;
  }
  return best;
}

double sd_probe_work_rate(sd_probe_memory *memory, int threads, int64_t rounds, double limit_seconds) {
  Counter &arrived = counter(memory->arrived), &late = counter(memory->late);
  if (!meet(arrived, static_cast<uint32_t>(threads), Clock::now(), limit_seconds, late)) return -1;
  const auto start = Clock::now();
  multiply(rounds);
  return 8.0 * static_cast<double>(rounds) / seconds_since(start) / 1e9;
}
}
