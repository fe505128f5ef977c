// SPDX-License-Identifier: Apache-2.0
// Phases of work on a caller's thread pool: all items of a phase end before the next phase begins.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "sparse_deploy_kernels.h"

namespace sd {

struct Phase {
  int64_t items;
  std::function<void(int64_t)> run;
};

// Expected number of threads of a pool; 1 without a pool.
int64_t thread_count(const sd_pool *pool);

// One call of the pool for all phases. Each thread first takes its own share of a phase's items, the same share in
// every phase and call (the tokens stay in its cache), then items that other threads have not started. A thread waits
// only for items that another thread is running, so the phases end with any number of started threads.
//
// An item may throw. No exception passes through the pool: the first exception is stored, items that have not started
// are skipped, and the exception is thrown again here after all threads have returned.
void run_phases(const sd_pool *pool, const std::vector<Phase> &phases);

}  // namespace sd
