// SPDX-License-Identifier: Apache-2.0
#include "pool.h"

#include <sched.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <set>
#include <thread>

#include "node.h"

namespace ort {
namespace {

constexpr long kMostThreads = 1024;

int32_t parse_threads(const char *text, const std::string &source) {
  char *end = nullptr;
  errno = 0;
  const long value = std::strtol(text, &end, 10);
  if (errno || end == text || *end || value < 1 || value > kMostThreads) {
    throw Failure(source + ": expected a whole number from 1 to " + std::to_string(kMostThreads) + ", found '" + text +
                      "'",
                  kInvalidArgument);
  }
  return static_cast<int32_t>(value);
}

// Physical cores among the CPUs that this process may use. ONNX Runtime's default is one thread per physical core,
// independent of hyperthreads.
int32_t physical_cores() {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) {  // more CPUs than cpu_set_t has bits
    const unsigned processors = std::thread::hardware_concurrency();
    return processors ? static_cast<int32_t>(processors) : 1;
  }
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    const std::string name = "cpu" + std::to_string(cpu);
    std::ifstream file("/sys/devices/system/cpu/" + name + "/topology/thread_siblings_list");
    std::string siblings;
    cores.insert(std::getline(file, siblings) ? siblings : name);
  }
  return static_cast<int32_t>(cores.size());
}

}  // namespace

int32_t thread_count(const char *entry) {
  if (const char *text = std::getenv("SPARSE_DEPLOY_THREADS"); text && *text) {
    return parse_threads(text, "environment variable SPARSE_DEPLOY_THREADS");
  }
  if (entry) return parse_threads(entry, "session config entry sparse_deploy.threads");
  return physical_cores();
}

Pool::Pool(const Api &api, const KernelContext *context, int32_t threads)
    : api_(api), context_(context), pool_{this, run, threads} {}

int Pool::run(void *self, void (*task)(void *, size_t), void *arg, size_t count) {
  Pool &pool = *static_cast<Pool *>(self);
  // 0 batches means a plain parallel loop: threads take single indices as they become free. Any other number
  // distributes ranges, and the loop ends with the slowest range.
  Status *status = pool.api_.KernelContext_ParallelFor()(pool.context_, task, count, 0, arg);
  if (!status) return 0;
  pool.api_.ReleaseStatus()(status);
  return 1;
}

}  // namespace ort
