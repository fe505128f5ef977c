// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <sched.h>

#include <atomic>
#include <exception>
#include <memory>
#include <stdexcept>

namespace sd {
namespace {

constexpr int kSpins = 20000;  // longer than any wait between running threads

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

struct alignas(128) Progress {
  std::atomic<int64_t> done{0};
};

class Team {
 public:
  Team(const std::vector<Phase> &phases, int64_t threads)
      : phases_(phases), threads_(threads), progress_(new Progress[phases.size()]), first_(phases.size()) {
    int64_t items = 0;
    for (size_t p = 0; p < phases.size(); ++p) {
      first_[p] = items;
      items += phases[p].items;
    }
    claimed_.reset(new std::atomic<uint8_t>[static_cast<size_t>(items)]());
    seats_.reset(new std::atomic<uint8_t>[static_cast<size_t>(threads)]());
  }

  static void enter(void *team, size_t) { static_cast<Team *>(team)->work(); }

  // After the pool has returned: throws the error of an item, or an error if items were not run.
  void finish(bool pool_failed) const {
    if (error_) std::rethrow_exception(error_);
    for (size_t p = 0; p < phases_.size(); ++p)
      if (pool_failed || progress_[p].done.load(std::memory_order_acquire) != phases_[p].items)
        throw std::runtime_error("the thread pool did not run its tasks");
  }

 private:
  // A thread's number, equal in every call unless another thread has taken it.
  int64_t take_seat() {
    static std::atomic<int64_t> next{0};
    static thread_local const int64_t preferred = next++;
    for (int64_t i = 0; i < threads_; ++i) {
      const int64_t seat = (preferred + i) % threads_;
      if (!seats_[static_cast<size_t>(seat)].exchange(1, std::memory_order_relaxed)) return seat;
    }
    return 0;
  }

  // A failed item is counted, too, because the other threads wait for it.
  void run(const Phase &phase, int64_t item) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      phase.run(item);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    }
  }

  void work() noexcept {
    const int64_t seat = take_seat();
    for (size_t p = 0; p < phases_.size(); ++p) {
      const Phase &phase = phases_[p];
      const int64_t begin = phase.items * seat / threads_;
      for (int64_t i = 0; i < phase.items; ++i) {
        const int64_t item = (begin + i) % phase.items;
        auto &claimed = claimed_[static_cast<size_t>(first_[p] + item)];
        if (claimed.load(std::memory_order_relaxed) || claimed.exchange(1, std::memory_order_relaxed)) continue;
        run(phase, item);
        progress_[p].done.fetch_add(1, std::memory_order_release);
      }
      for (int spin = 0; progress_[p].done.load(std::memory_order_acquire) != phase.items; ++spin) {
        if (spin < kSpins)
          pause();
        else
          sched_yield();
      }
    }
  }

  const std::vector<Phase> &phases_;
  const int64_t threads_;
  std::unique_ptr<Progress[]> progress_;
  std::vector<int64_t> first_;
  std::unique_ptr<std::atomic<uint8_t>[]> claimed_, seats_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // written by the thread that set failed_, read after all threads have returned
};

}  // namespace

int64_t thread_count(const sd_pool *pool) { return pool && pool->run && pool->threads > 1 ? pool->threads : 1; }

void run_phases(const sd_pool *pool, const std::vector<Phase> &phases) {
  const int64_t threads = thread_count(pool);
  int64_t widest = 0;
  for (const Phase &phase : phases) widest = phase.items > widest ? phase.items : widest;
  if (threads == 1 || widest <= 1) {
    for (const Phase &phase : phases)
      for (int64_t i = 0; i < phase.items; ++i) phase.run(i);
    return;
  }
  Team team(phases, threads);
  const int problem = pool->run(pool->context, Team::enter, &team, static_cast<size_t>(threads));
  team.finish(problem != 0);
}

}  // namespace sd
