// SPDX-License-Identifier: Apache-2.0
// The threads of OpenVINO's stream as the core's sd_pool. The CPU plugin calls evaluate() inside the stream's TBB
// arena, so a parallel_for here uses only the arena's threads, and the arena's width is INFERENCE_NUM_THREADS /
// streams.
#pragma once

#include <sparse_deploy_kernels.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <cstddef>

namespace sparse_deploy {

inline sd_pool stream_pool() {
  return {nullptr,
          [](void *, void (*task)(void *, size_t), void *arg, size_t count) noexcept {
            try {
              tbb::parallel_for(
                  size_t{0}, count, [task, arg](size_t index) { task(arg, index); }, tbb::static_partitioner());
              return 0;
            } catch (...) {  // no memory for TBB's own tasks
              return 1;
            }
          },
          tbb::this_task_arena::max_concurrency()};
}

}  // namespace sparse_deploy
