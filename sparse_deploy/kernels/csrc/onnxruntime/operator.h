// SPDX-License-Identifier: Apache-2.0
// Makes ONNX Runtime's OrtCustomOp from a C++ class. A class has a name, inputs and four functions; this file has the
// shared code: no exception leaves a callback, and every error names its node.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <memory>
#include <string>

#include "node.h"
#include "ort_abi.h"
#include "pool.h"

namespace ort {

struct Input {
  ElementType type;
  Characteristic characteristic;
};

// An OrtCustomOp with the data of its kernels.
struct Definition : CustomOp {
  const Api *api;
  int32_t threads;
};

// Runs a callback's body; its exception becomes a status.
template <class Body>
Status *as_status(const Api &api, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failure &failure) {
    return api.CreateStatus()(failure.code, failure.what());
  } catch (const std::exception &exception) {
    return api.CreateStatus()(kFail, exception.what());  // usually out of memory
  } catch (...) {
    return api.CreateStatus()(kFail, "unknown error in sparse_deploy");
  }
}

// Kernel: kName, kInputs, kInPlace (output 0 may reuse input 0), a constructor from a NodeInfo,
// run(RunContext &) const, and infer(ShapeInference &) static.
template <class Kernel>
class Operator {
 public:
  static Definition define(const Api &api, int32_t threads) {
    Definition op{};
    op.version = kApiVersion;
    op.api = &api;
    op.threads = threads;
    op.GetName = [](const CustomOp *) { return Kernel::kName; };
    op.GetExecutionProviderType = [](const CustomOp *) -> const char * { return nullptr; };
    op.GetInputTypeCount = [](const CustomOp *) { return std::size(Kernel::kInputs); };
    op.GetInputType = [](const CustomOp *, size_t index) { return Kernel::kInputs[index].type; };
    op.GetInputCharacteristic = [](const CustomOp *, size_t index) { return Kernel::kInputs[index].characteristic; };
    op.GetInputMemoryType = [](const CustomOp *, size_t) { return kMemTypeDefault; };
    op.GetOutputTypeCount = [](const CustomOp *) -> size_t { return 1; };
    op.GetOutputType = [](const CustomOp *, size_t) { return kFloat; };
    op.GetOutputCharacteristic = [](const CustomOp *, size_t) { return kRequired; };
    op.GetVariadicInputMinArity = [](const CustomOp *) { return 0; };
    op.GetVariadicInputHomogeneity = [](const CustomOp *) { return 0; };
    op.GetVariadicOutputMinArity = [](const CustomOp *) { return 0; };
    op.GetVariadicOutputHomogeneity = [](const CustomOp *) { return 0; };
    op.GetStartVersion = [](const CustomOp *) { return 1; };
    op.CreateKernelV2 = create;
    op.KernelComputeV2 = compute;
    op.KernelDestroy = [](void *instance) { delete static_cast<Instance *>(instance); };
    op.InferOutputShapeFn = infer;
    if (Kernel::kInPlace) {
      op.GetMayInplace = in_place;
      op.ReleaseMayInplace = [](int *inputs, int *outputs) {
        std::free(inputs);
        std::free(outputs);
      };
    }
    return op;
  }

 private:
  struct Instance {
    Instance(const Api &api_, const NodeInfo &node, int32_t threads_)
        : api(api_), label(node.label()), threads(threads_), kernel(node) {}
    const Api &api;
    const std::string label;
    const int32_t threads;
    const Kernel kernel;
  };

  static Status *create(const CustomOp *op, const Api *api, const KernelInfo *info, void **instance) {
    return as_status(*api, [&] {
      const NodeInfo node(*api, info, Kernel::kName);
      *instance = std::make_unique<Instance>(*api, node, static_cast<const Definition *>(op)->threads).release();
    });
  }

  static Status *compute(void *instance, KernelContext *context) {
    const Instance &self = *static_cast<const Instance *>(instance);
    return as_status(self.api, [&] {
      Pool pool(self.api, context, self.threads);
      RunContext run(self.api, context, self.label, pool);
      self.kernel.run(run);
    });
  }

  // An error here would be reported without the node's name, or not at all: ONNX Runtime 1.31 drops the status. An
  // invalid node gets no shape, and the kernel reports the error.
  static Status *infer(const CustomOp *op, ShapeInferContext *context) {
    const Api &api = *static_cast<const Definition *>(op)->api;
    if (Status *status = as_status(api, [&] {
          ShapeInference shapes(api, context);
          Kernel::infer(shapes);
        })) {
      api.ReleaseStatus()(status);
    }
    return nullptr;
  }

  static size_t in_place(int **inputs, int **outputs) {
    *inputs = static_cast<int *>(std::calloc(1, sizeof(int)));
    *outputs = static_cast<int *>(std::calloc(1, sizeof(int)));
    return *inputs && *outputs ? 1 : 0;
  }
};

}  // namespace ort
