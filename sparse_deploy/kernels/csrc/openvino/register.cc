// SPDX-License-Identifier: Apache-2.0
// The entry point: Core.add_extension calls create_extensions. It registers the operators of the IR and the conversion
// from ONNX, so OpenVINO also opens model_sparse.onnx.
#include <sparse_deploy_kernels.h>

#include <memory>
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "operator.h"
#include "sparse_encoder_layer.h"
#include "sparse_linear.h"

namespace sparse_deploy {
namespace {

constexpr const char *kDomain = "sparse_deploy";

// An attribute that an ONNX node does not have keeps the operator's default.
class OnnxAttributes final : public ov::AttributeVisitor {
 public:
  explicit OnnxAttributes(const ov::frontend::NodeContext &context) : context_(context) {}

  void on_adapter(const std::string &name, ov::ValueAccessor<void> &adapter) override {
    const ov::Any value = context_.get_attribute_as_any(name);
    if (!value.empty()) adapter.set_as_any(value);
  }

 private:
  const ov::frontend::NodeContext &context_;
};

template <class T>
std::shared_ptr<ov::Extension> from_onnx(const char *type) {
  return std::make_shared<ov::frontend::onnx::ConversionExtension>(
      type, kDomain, [](const ov::frontend::NodeContext &context) {
        ov::OutputVector inputs;
        for (size_t i = 0; i < context.get_input_size(); ++i) inputs.push_back(context.get_input(static_cast<int>(i)));
        const auto node = std::make_shared<T>();
        node->set_arguments(inputs);
        OnnxAttributes attributes(context);
        node->visit_attributes(attributes);
        node->set_friendly_name(context.get_name());
        node->constructor_validate_and_infer_types();
        return node->outputs();
      });
}

std::vector<ov::Extension::Ptr> extensions() {
  if (sd_abi_version() != SD_ABI_VERSION) {
    throw std::runtime_error(std::string(kErrorPrefix) + "this extension was built for interface version " +
                             std::to_string(SD_ABI_VERSION) + " of libsparse_deploy_kernels.so, found " +
                             std::to_string(sd_abi_version()) +
                             "; run: python -m sparse_deploy.kernels.openvino_extension");
  }
  return {std::make_shared<ov::OpExtension<SparseLinear>>(), std::make_shared<ov::OpExtension<SparseEncoderLayer>>(),
          from_onnx<SparseLinear>("SparseLinear"), from_onnx<SparseEncoderLayer>("SparseEncoderLayer")};
}

}  // namespace
}  // namespace sparse_deploy

OPENVINO_CREATE_EXTENSIONS(sparse_deploy::extensions());

extern "C" {
// The loader reads this from the file before loading it, and compares it with the installed OpenVINO.
SD_EXPORT extern const char sparse_deploy_openvino_built_for[];
__attribute__((used)) const char sparse_deploy_openvino_built_for[] =
    "sparse_deploy extension for " SPARSE_DEPLOY_OPENVINO ";";
// Number of packed operators in this process, for tests: streams and copies of a model share them.
SD_EXPORT int64_t sparse_deploy_packed_operators(void) { return sparse_deploy::Kernel::alive(); }
}
