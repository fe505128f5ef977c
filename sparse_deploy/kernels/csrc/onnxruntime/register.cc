// SPDX-License-Identifier: Apache-2.0
// The entry point that SessionOptions.register_custom_ops_library calls.
#include <sparse_deploy_kernels.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "node.h"
#include "operator.h"
#include "ort_abi.h"
#include "pool.h"
#include "sparse_encoder_layer.h"
#include "sparse_linear.h"

namespace ort {
namespace {

constexpr const char *kDomain = "sparse_deploy";
constexpr const char *kThreadsEntry = "sparse_deploy.threads";

// Sessions refer to the operators by pointer and may end after the destruction of static objects, so a domain is never
// freed. There is one domain per thread count in use and copy of ONNX Runtime in the process.
struct Domain {
  Domain(const Api &api, int32_t threads)
      : linear(Operator<SparseLinear>::define(api, threads)), layer(Operator<SparseEncoderLayer>::define(api, threads)) {
    ort::check(api, api.CreateCustomOpDomain()(kDomain, &handle));
    ort::check(api, api.CustomOpDomain_Add()(handle, &linear));
    ort::check(api, api.CustomOpDomain_Add()(handle, &layer));
  }
  Definition linear, layer;
  CustomOpDomain *handle = nullptr;
};

CustomOpDomain *domain(const Api &api, int32_t threads) {
  static std::mutex mutex;
  static auto *domains = new std::map<std::pair<const Api *, int32_t>, std::unique_ptr<Domain>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Domain> &entry = (*domains)[{&api, threads}];
  if (!entry) entry = std::make_unique<Domain>(api, threads);
  return entry->handle;
}

int32_t session_threads(const Api &api, const SessionOptions *options) {
  int present = 0;
  check(api, api.HasSessionConfigEntry()(options, kThreadsEntry, &present));
  if (!present) return thread_count(nullptr);
  size_t size = 0;
  check(api, api.GetSessionConfigEntry()(options, kThreadsEntry, nullptr, &size));
  std::string text(size, '\0');
  check(api, api.GetSessionConfigEntry()(options, kThreadsEntry, text.data(), &size));
  return thread_count(text.c_str());
}

}  // namespace
}  // namespace ort

extern "C" SD_EXPORT ort::Status *RegisterCustomOps(ort::SessionOptions *options, const ort::ApiBase *base) {
  const ort::Api *api = base->GetApi(ort::kApiVersion);
  if (!api) {
    // The requested table does not exist. Version 1 has the function that makes a status at the same position.
    api = base->GetApi(1);
    const std::string problem = "sparse_deploy's operators need onnxruntime 1.18 or newer, found " +
                                std::string(base->GetVersionString());
    return api ? api->CreateStatus()(ort::kFail, problem.c_str()) : nullptr;
  }
  return ort::as_status(*api, [&] {
    ort::CustomOpDomain *handle = ort::domain(*api, ort::session_threads(*api, options));
    ort::check(*api, api->AddCustomOpDomain()(options, handle));
  });
}
