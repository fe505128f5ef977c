// SPDX-License-Identifier: Apache-2.0
// Two probes of the machine's state for harness/machine_state.py: how far two CPUs are from each other, and how fast
// both multiply at the same time. Compiled once at first use; no dependencies but libstdc++ and pthreads.
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

struct alignas(128) Line {
  std::atomic<uint32_t> turn{0};
};

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

}  // namespace

extern "C" {

// Nanoseconds that a changed cache line takes from one CPU to the other (half of a round trip); the least of
// `repeats`, because whatever else runs can only make it slower. Below 0 when none came to its end within
// `limit_seconds`: when other processes hold the CPUs, each exchange waits for the scheduler.
double ping_pong_ns(int cpu_a, int cpu_b, int round_trips, int repeats, double limit_seconds) {
  double best = -1;
  const auto begin = Clock::now();
  for (int repeat = 0; repeat < repeats && seconds_since(begin) < limit_seconds; ++repeat) {
    Line line;
    std::atomic<bool> ready{false}, late{false};
    const auto wait_for = [&](uint32_t turn) {
      for (uint32_t spins = 1; line.turn.load(std::memory_order_acquire) != turn; ++spins)
        if (spins % 4096 == 0) {
          if (seconds_since(begin) > limit_seconds) late.store(true);
          if (late.load()) return false;
        }
      return true;
    };
    std::thread other([&] {
      pin(cpu_b);
      ready.store(true);
      for (int i = 0; i < round_trips && wait_for(2u * i + 1); ++i) line.turn.store(2 * i + 2, std::memory_order_release);
    });
    double elapsed = 0;
    std::thread self([&] {
      pin(cpu_a);
      while (!ready.load()) {
      }
      const auto start = Clock::now();
      for (int i = 0; i < round_trips; ++i) {
        line.turn.store(2 * i + 1, std::memory_order_release);
        if (!wait_for(2u * i + 2)) return;
      }
      elapsed = seconds_since(start);
    });
    self.join();
    other.join();
    const double one_way = elapsed / round_trips / 2 * 1e9;
    if (elapsed > 0 && (best < 0 || one_way < best)) best = one_way;
  }
  return best;
}

// 1e9 vector multiply-adds per second of the slower of `count` CPUs that all work at once: a foreign process on either
// shows as a drop. The instruction is vpdpbusd where the CPU has it, else a 256-bit FMA.
double work_rate(const int *cpus, int count, int64_t rounds) {
  const bool vnni = __builtin_cpu_supports("avx512vnni");
  double slowest = 1e30;
  double rates[256] = {};
  std::thread threads[256];
  if (count > 256) count = 256;
  std::atomic<int> ready{0};
  for (int t = 0; t < count; ++t)
    threads[t] = std::thread([&, t] {
      pin(cpus[t]);
      ready.fetch_add(1);
      while (ready.load() < count) {
      }
      const auto start = Clock::now();
      vnni ? multiply_vnni(rounds) : multiply_fma(rounds);
      rates[t] = 8.0 * rounds / seconds_since(start) / 1e9;
    });
  for (int t = 0; t < count; ++t) threads[t].join();
  for (int t = 0; t < count; ++t)
    if (rates[t] < slowest) slowest = rates[t];
  return slowest;
}
}
