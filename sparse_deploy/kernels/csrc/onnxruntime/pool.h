// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's own threads as the core's sd_pool. A second pool would compete for the same cores.
#pragma once

#include <sparse_deploy_kernels.h>

#include <cstdint>

#include "ort_abi.h"

namespace ort {

// Used for one call of a kernel.
class Pool {
 public:
  Pool(const Api &api, const KernelContext *context, int32_t threads);
  const sd_pool *get() const { return &pool_; }

 private:
  static int run(void *self, void (*task)(void *, size_t), void *arg, size_t count);

  const Api &api_;
  const KernelContext *context_;
  sd_pool pool_;
};

// Number of tasks that run at the same time: the variable SPARSE_DEPLOY_THREADS, else `entry` (the session's config
// entry sparse_deploy.threads, or null), else the physical cores that this process may use, which is the default of
// intra_op_num_threads. ONNX Runtime does not pass its own number. A number that is too high gives the same result, but
// is slower.
int32_t thread_count(const char *entry);

}  // namespace ort
