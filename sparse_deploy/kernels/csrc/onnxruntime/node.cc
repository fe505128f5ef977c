// SPDX-License-Identifier: Apache-2.0
#include "node.h"

#include <memory>

namespace ort {
namespace {

// Text from a function that is called twice: for the length including the final zero, then for the bytes.
template <class Function, class... Arguments>
std::string read_text(const Api &api, Function function, Arguments... arguments) {
  size_t size = 0;
  check(api, function(arguments..., nullptr, &size));
  std::string text(size, '\0');
  if (size) {
    check(api, function(arguments..., text.data(), &size));
    text.resize(size - 1);
  }
  return text;
}

using ShapeInfo = std::unique_ptr<TensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfoFunction>;

std::vector<int64_t> dimensions(const Api &api, const TensorTypeAndShapeInfo *info) {
  size_t rank = 0;
  check(api, api.GetDimensionsCount()(info, &rank));
  std::vector<int64_t> dims(rank);
  if (rank) check(api, api.GetDimensions()(info, dims.data(), rank));
  return dims;
}

Tensor read_tensor(const Api &api, const Value *value, ElementType *type) {
  TensorTypeAndShapeInfo *raw = nullptr;
  check(api, api.GetTensorTypeAndShape()(value, &raw));
  const ShapeInfo info(raw, api.ReleaseTensorTypeAndShapeInfo());
  Tensor tensor{nullptr, dimensions(api, raw)};
  if (type) check(api, api.GetTensorElementType()(raw, type));
  check(api, api.GetTensorMutableData()(const_cast<Value *>(value), &tensor.data));
  return tensor;
}

}  // namespace

void check(const Api &api, Status *status) {
  if (!status) return;
  const std::string message = api.GetErrorMessage()(status);
  api.ReleaseStatus()(status);
  throw Failure(message);
}

NodeInfo::NodeInfo(const Api &api, const KernelInfo *info, const char *op) : api_(api), info_(info) {
  check(api, api.KernelInfo_GetInputCount()(info, &inputs_));
  std::string name = read_text(api, api.KernelInfo_GetNodeName(), info);
  // Nodes may have no name; a tensor's name always identifies its node.
  if (name.empty()) name = read_text(api, api.KernelInfo_GetOutputName(), info, size_t{0});
  label_ = std::string(op) + " node '" + name + "'";
}

void NodeInfo::fail(const std::string &problem) const { throw Failure(label_ + ": " + problem, kInvalidArgument); }

bool NodeInfo::has_input(size_t index) const {
  return index < inputs_ && !read_text(api_, api_.KernelInfo_GetInputName(), info_, index).empty();
}

Tensor NodeInfo::constant(size_t index, const char *name, ElementType type, int64_t expected) const {
  const std::string input = "input " + std::to_string(index) + " (" + name + ")";
  int is_constant = 0;
  const Value *value = nullptr;
  check(api_, api_.KernelInfoGetConstantInput_tensor()(info_, index, &is_constant, &value));
  if (!is_constant || !value) {
    fail(input + " must be a constant; make it an initializer that is not a graph input");
  }
  ElementType found = kUndefined;
  Tensor tensor = read_tensor(api_, value, &found);
  if (found != type) {
    fail(input + " has element type " + std::to_string(found) + ", expected " + std::to_string(type));
  }
  if (tensor.dims.size() != 1 || (expected >= 0 && tensor.dims[0] != expected)) {
    const std::string wanted = expected >= 0 ? shape_text({expected}) : "one dimension";
    fail(input + " has shape " + shape_text(tensor.dims) + ", expected " + wanted);
  }
  return tensor;
}

Constant<uint8_t> NodeInfo::bytes(size_t index, const char *name, int64_t expected) const {
  const Tensor tensor = constant(index, name, kUint8, expected);
  return {static_cast<const uint8_t *>(tensor.data), static_cast<size_t>(tensor.dims[0])};
}

Constant<float> NodeInfo::floats(size_t index, const char *name, int64_t expected) const {
  const Tensor tensor = constant(index, name, kFloat, expected);
  return {static_cast<const float *>(tensor.data), static_cast<size_t>(tensor.dims[0])};
}

std::string NodeInfo::text(const char *attribute, const char *missing) const {
  try {
    return read_text(api_, api_.KernelInfoGetAttribute_string(), info_, attribute);
  } catch (const Failure &) {
    if (!missing || present(attribute)) fail_attribute(attribute, "a string");
    return missing;
  }
}

bool NodeInfo::present(const char *attribute) const {
  int64_t whole = 0;
  float real = 0;
  size_t size = 0;
  Status *statuses[] = {api_.KernelInfoGetAttribute_int64()(info_, attribute, &whole),
                        api_.KernelInfoGetAttribute_float()(info_, attribute, &real),
                        api_.KernelInfoGetAttribute_string()(info_, attribute, nullptr, &size)};
  bool found = false;
  for (Status *status : statuses) {
    found |= !status;
    if (status) api_.ReleaseStatus()(status);
  }
  return found;
}

int64_t NodeInfo::whole_number(const char *attribute, const int64_t *missing) const {
  int64_t value = 0;
  Status *status = api_.KernelInfoGetAttribute_int64()(info_, attribute, &value);
  if (!status) return value;
  api_.ReleaseStatus()(status);
  if (!missing || present(attribute)) fail_attribute(attribute, "an int");
  return *missing;
}

float NodeInfo::number(const char *attribute, const float *missing) const {
  if (missing && !present(attribute)) return *missing;
  float value = 0;
  Status *status = api_.KernelInfoGetAttribute_float()(info_, attribute, &value);
  if (!status) return value;
  api_.ReleaseStatus()(status);
  fail_attribute(attribute, "a float");
}

void NodeInfo::fail_attribute(const char *attribute, const char *kind) const {
  fail("attribute " + std::string(attribute) + " is required and must be " + kind);
}

Tensor RunContext::input(size_t index) const {
  const Value *value = nullptr;
  check(api_, api_.KernelContext_GetInput()(context_, index, &value));
  return read_tensor(api_, value, nullptr);  // the element type was checked when the graph was resolved
}

void *RunContext::output(const std::vector<int64_t> &dims) {
  Value *value = nullptr;
  void *data = nullptr;
  check(api_, api_.KernelContext_GetOutput()(context_, 0, dims.data(), dims.size(), &value));
  check(api_, api_.GetTensorMutableData()(value, &data));
  return data;
}

void RunContext::fail(const std::string &problem, ErrorCode code) const {
  throw Failure(label_ + ": " + problem, code);
}

std::vector<Dimension> ShapeInference::input(size_t index) const {
  size_t inputs = 0;
  check(api_, api_.ShapeInferContext_GetInputCount()(context_, &inputs));
  if (index >= inputs) return {};
  TensorTypeAndShapeInfo *info = nullptr;  // the context keeps it
  check(api_, api_.ShapeInferContext_GetInputTypeShape()(context_, index, &info));
  const std::vector<int64_t> values = dimensions(api_, info);
  std::vector<const char *> names(values.size());
  if (!names.empty()) check(api_, api_.GetSymbolicDimensions()(info, names.data(), names.size()));
  std::vector<Dimension> dims;
  for (size_t i = 0; i < values.size(); ++i) dims.push_back({values[i], names[i] ? names[i] : ""});
  return dims;
}

int64_t ShapeInference::whole_number(const char *attribute, int64_t missing) const {
  const OpAttr *found = nullptr;
  int64_t value = missing;
  size_t size = 0;
  Status *status = api_.ShapeInferContext_GetAttribute()(context_, attribute, &found);
  if (!status) status = api_.ReadOpAttr()(found, kOpAttrInt, &value, sizeof value, &size);
  if (status) api_.ReleaseStatus()(status);
  return status ? missing : value;
}

void ShapeInference::output(const std::vector<Dimension> &dims) {
  if (dims.empty()) return;  // unknown, unlike a scalar
  std::vector<int64_t> values;
  std::vector<const char *> names;
  for (const Dimension &dim : dims) {
    // ONNX Runtime would write a dimension that has neither number nor name as the number -1.
    if (dim.value < 0 && dim.name.empty()) return;
    values.push_back(dim.value);
    names.push_back(dim.name.c_str());
  }
  TensorTypeAndShapeInfo *raw = nullptr;
  check(api_, api_.CreateTensorTypeAndShapeInfo()(&raw));
  const ShapeInfo info(raw, api_.ReleaseTensorTypeAndShapeInfo());
  check(api_, api_.SetTensorElementType()(raw, kFloat));
  check(api_, api_.SetDimensions()(raw, values.data(), values.size()));
  check(api_, api_.SetSymbolicDimensions()(raw, names.data(), names.size()));
  check(api_, api_.ShapeInferContext_SetOutputTypeShape()(context_, 0, raw));
}

}  // namespace ort
