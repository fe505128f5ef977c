// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C ABI that a custom operator needs; the pip wheel contains no headers. Functions are
// identified by their position in the table that GetApi returns; the table only grows at its end, so a position is
// valid in every later version. abi_check.cc compares every type and position with the official header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

// Version 17 (January 2024) added parallel loops and shape inference of custom operators, version 18 outputs that reuse
// an input. Every onnxruntime that pyproject.toml allows has both.
constexpr uint32_t kApiVersion = 18;

#ifndef SPARSE_DEPLOY_OFFICIAL_ORT_TYPES  // abi_check.cc replaces them by the official types
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct OpAttr;
struct TensorTypeAndShapeInfo;
struct Value;
struct CustomOp;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kUndefined = 0, kFloat = 1, kUint8 = 2, kInt64 = 7 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemType : int { kMemTypeDefault = 0 };
enum OpAttrType : int { kOpAttrInt = 1 };

struct Api;
struct ApiBase {
  const Api *(*GetApi)(uint32_t version) noexcept;
  const char *(*GetVersionString)() noexcept;
};
#endif

// position in the table, name, result, parameters
#define SPARSE_DEPLOY_ORT_FUNCTIONS(X)                                                                              \
  X(0, CreateStatus, Status *, (ErrorCode code, const char *message))                                               \
  X(2, GetErrorMessage, const char *, (const Status *status))                                                       \
  X(26, CreateCustomOpDomain, Status *, (const char *domain, CustomOpDomain **out))                                 \
  X(27, CustomOpDomain_Add, Status *, (CustomOpDomain * domain, const CustomOp *op))                                \
  X(28, AddCustomOpDomain, Status *, (SessionOptions * options, CustomOpDomain *domain))                            \
  X(51, GetTensorMutableData, Status *, (Value * value, void **out))                                                \
  X(57, CreateTensorTypeAndShapeInfo, Status *, (TensorTypeAndShapeInfo * *out))                                    \
  X(58, SetTensorElementType, Status *, (TensorTypeAndShapeInfo * info, ElementType type))                          \
  X(59, SetDimensions, Status *, (TensorTypeAndShapeInfo * info, const int64_t *dims, size_t count))                \
  X(60, GetTensorElementType, Status *, (const TensorTypeAndShapeInfo *info, ElementType *out))                     \
  X(61, GetDimensionsCount, Status *, (const TensorTypeAndShapeInfo *info, size_t *out))                            \
  X(62, GetDimensions, Status *, (const TensorTypeAndShapeInfo *info, int64_t *dims, size_t count))                 \
  X(63, GetSymbolicDimensions, Status *, (const TensorTypeAndShapeInfo *info, const char **names, size_t count))    \
  X(65, GetTensorTypeAndShape, Status *, (const Value *value, TensorTypeAndShapeInfo **out))                        \
  X(85, KernelInfoGetAttribute_float, Status *, (const KernelInfo *info, const char *name, float *out))             \
  X(86, KernelInfoGetAttribute_int64, Status *, (const KernelInfo *info, const char *name, int64_t *out))           \
  X(87, KernelInfoGetAttribute_string, Status *,                                                                    \
    (const KernelInfo *info, const char *name, char *out, size_t *size))                                            \
  X(90, KernelContext_GetInput, Status *, (const KernelContext *context, size_t index, const Value **out))          \
  X(91, KernelContext_GetOutput, Status *,                                                                          \
    (KernelContext * context, size_t index, const int64_t *dims, size_t count, Value **out))                        \
  X(93, ReleaseStatus, void, (Status * status))                                                                     \
  X(99, ReleaseTensorTypeAndShapeInfo, void, (TensorTypeAndShapeInfo * info))                                       \
  X(101, ReleaseCustomOpDomain, void, (CustomOpDomain * domain))                                                    \
  X(230, KernelInfo_GetInputCount, Status *, (const KernelInfo *info, size_t *out))                                 \
  X(232, KernelInfo_GetInputName, Status *, (const KernelInfo *info, size_t index, char *out, size_t *size))        \
  X(233, KernelInfo_GetOutputName, Status *, (const KernelInfo *info, size_t index, char *out, size_t *size))       \
  X(237, HasSessionConfigEntry, Status *, (const SessionOptions *options, const char *key, int *out))               \
  X(238, GetSessionConfigEntry, Status *,                                                                           \
    (const SessionOptions *options, const char *key, char *out, size_t *size))                                      \
  X(244, KernelInfo_GetNodeName, Status *, (const KernelInfo *info, char *out, size_t *size))                       \
  X(249, KernelInfoGetConstantInput_tensor, Status *,                                                               \
    (const KernelInfo *info, size_t index, int *is_constant, const Value **out))                                    \
  X(267, ShapeInferContext_GetInputCount, Status *, (const ShapeInferContext *context, size_t *out))                \
  X(268, ShapeInferContext_GetInputTypeShape, Status *,                                                             \
    (const ShapeInferContext *context, size_t index, TensorTypeAndShapeInfo **out))                                 \
  X(269, ShapeInferContext_GetAttribute, Status *,                                                                  \
    (const ShapeInferContext *context, const char *name, const OpAttr **out))                                       \
  X(270, ShapeInferContext_SetOutputTypeShape, Status *,                                                            \
    (const ShapeInferContext *context, size_t index, const TensorTypeAndShapeInfo *info))                           \
  X(271, SetSymbolicDimensions, Status *, (TensorTypeAndShapeInfo * info, const char *names[], size_t count))       \
  X(272, ReadOpAttr, Status *, (const OpAttr *attribute, OpAttrType type, void *out, size_t length, size_t *size))  \
  X(274, KernelContext_ParallelFor, Status *,                                                                       \
    (const KernelContext *context, void (*task)(void *, size_t), size_t total, size_t batches, void *arg))

#define SPARSE_DEPLOY_ORT_TYPE(place, name, result, parameters) using name##Function = result(*) parameters noexcept;
SPARSE_DEPLOY_ORT_FUNCTIONS(SPARSE_DEPLOY_ORT_TYPE)
#undef SPARSE_DEPLOY_ORT_TYPE

#ifndef SPARSE_DEPLOY_OFFICIAL_ORT_TYPES
struct Api {
#define SPARSE_DEPLOY_ORT_MEMBER(place, name, result, parameters) \
  name##Function name() const noexcept { return reinterpret_cast<name##Function>(functions_[place]); }
  SPARSE_DEPLOY_ORT_FUNCTIONS(SPARSE_DEPLOY_ORT_MEMBER)
#undef SPARSE_DEPLOY_ORT_MEMBER

 private:
  void (*functions_[275])();  // up to the last position above
};
#endif

// member, result, parameters, in the order of the structure, which also only grows at its end
#define SPARSE_DEPLOY_ORT_CUSTOM_OP_MEMBERS(X)                                                                      \
  X(CreateKernel, void *, (const CustomOp *op, const Api *api, const KernelInfo *info))                             \
  X(GetName, const char *, (const CustomOp *op))                                                                    \
  X(GetExecutionProviderType, const char *, (const CustomOp *op))                                                   \
  X(GetInputType, ElementType, (const CustomOp *op, size_t index))                                                  \
  X(GetInputTypeCount, size_t, (const CustomOp *op))                                                                \
  X(GetOutputType, ElementType, (const CustomOp *op, size_t index))                                                 \
  X(GetOutputTypeCount, size_t, (const CustomOp *op))                                                               \
  X(KernelCompute, void, (void *kernel, KernelContext *context))                                                    \
  X(KernelDestroy, void, (void *kernel))                                                                            \
  X(GetInputCharacteristic, Characteristic, (const CustomOp *op, size_t index))                                     \
  X(GetOutputCharacteristic, Characteristic, (const CustomOp *op, size_t index))                                    \
  X(GetInputMemoryType, MemType, (const CustomOp *op, size_t index))                                                \
  X(GetVariadicInputMinArity, int, (const CustomOp *op))                                                            \
  X(GetVariadicInputHomogeneity, int, (const CustomOp *op))                                                         \
  X(GetVariadicOutputMinArity, int, (const CustomOp *op))                                                           \
  X(GetVariadicOutputHomogeneity, int, (const CustomOp *op))                                                        \
  X(CreateKernelV2, Status *, (const CustomOp *op, const Api *api, const KernelInfo *info, void **kernel))          \
  X(KernelComputeV2, Status *, (void *kernel, KernelContext *context))                                              \
  X(InferOutputShapeFn, Status *, (const CustomOp *op, ShapeInferContext *context))                                 \
  X(GetStartVersion, int, (const CustomOp *op))                                                                     \
  X(GetEndVersion, int, (const CustomOp *op))                                                                       \
  X(GetMayInplace, size_t, (int **inputs, int **outputs))                                                           \
  X(ReleaseMayInplace, void, (int *inputs, int *outputs))                                                           \
  X(GetAliasMap, size_t, (int **inputs, int **outputs))                                                             \
  X(ReleaseAliasMap, void, (int *inputs, int *outputs))

#ifndef SPARSE_DEPLOY_OFFICIAL_ORT_TYPES
struct CustomOp {
  uint32_t version;
#define SPARSE_DEPLOY_ORT_FIELD(name, result, parameters) result(*name) parameters;
  SPARSE_DEPLOY_ORT_CUSTOM_OP_MEMBERS(SPARSE_DEPLOY_ORT_FIELD)
#undef SPARSE_DEPLOY_ORT_FIELD
};
#endif

}  // namespace ort
