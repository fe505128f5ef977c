// SPDX-License-Identifier: Apache-2.0
// Compiles only if ort_abi.h agrees with the official header, and contains no other code (tools/check_ort_abi.sh). Each
// function is compared by position and complete type: the opaque names of ort_abi.h are the official structures here.
#define SPARSE_DEPLOY_OFFICIAL_ORT_TYPES
#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ort {
using Api = ::OrtApi;
using ApiBase = ::OrtApiBase;
using Status = ::OrtStatus;
using SessionOptions = ::OrtSessionOptions;
using CustomOpDomain = ::OrtCustomOpDomain;
using KernelInfo = ::OrtKernelInfo;
using KernelContext = ::OrtKernelContext;
using ShapeInferContext = ::OrtShapeInferContext;
using OpAttr = ::OrtOpAttr;
using TensorTypeAndShapeInfo = ::OrtTensorTypeAndShapeInfo;
using Value = ::OrtValue;
using CustomOp = ::OrtCustomOp;
using ErrorCode = ::OrtErrorCode;
using ElementType = ::ONNXTensorElementDataType;
using Characteristic = ::OrtCustomOpInputOutputCharacteristic;
using MemType = ::OrtMemType;
using OpAttrType = ::OrtOpAttrType;
}  // namespace ort
#include "ort_abi.h"

namespace ort {

static_assert(kApiVersion <= ORT_API_VERSION, "the header is older than the requested API version");
static_assert(ORT_FAIL == 1 && ORT_INVALID_ARGUMENT == 2, "ErrorCode");
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED == 0 && ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == 1 &&
                  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 == 2 && ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 == 7,
              "ElementType");
static_assert(INPUT_OUTPUT_REQUIRED == 0 && INPUT_OUTPUT_OPTIONAL == 1, "Characteristic");
static_assert(OrtMemTypeDefault == 0, "MemType");
static_assert(ORT_OP_ATTR_INT == 1 && sizeof(OpAttrType) == sizeof(int), "OpAttrType");
static_assert(sizeof(ErrorCode) == sizeof(int) && sizeof(ElementType) == sizeof(int) &&
                  sizeof(Characteristic) == sizeof(int) && sizeof(MemType) == sizeof(int),
              "enumerations are as wide as int");

static_assert(offsetof(ApiBase, GetApi) == 0 && offsetof(ApiBase, GetVersionString) == sizeof(void *), "ApiBase");
static_assert(std::is_same<decltype(ApiBase::GetApi), const Api *(*)(uint32_t)noexcept>::value, "GetApi");
static_assert(std::is_same<decltype(ApiBase::GetVersionString), const char *(*)() noexcept>::value, "GetVersionString");

// Convertible, not the same: the official release functions are not noexcept, which is part of a C++17 type and the
// only difference that such a conversion allows.
#define SPARSE_DEPLOY_CHECK_FUNCTION(place, name, result, parameters)                                 \
  static_assert(offsetof(Api, name) == (place) * sizeof(void *), #name " has a different position");         \
  static_assert(std::is_convertible<name##Function, decltype(Api::name)>::value, #name " has a different type");
SPARSE_DEPLOY_ORT_FUNCTIONS(SPARSE_DEPLOY_CHECK_FUNCTION)

static_assert(offsetof(CustomOp, version) == 0 && sizeof(CustomOp::version) == 4, "version");
enum Order : size_t {
#define SPARSE_DEPLOY_COUNT(name, result, parameters) k##name,
  SPARSE_DEPLOY_ORT_CUSTOM_OP_MEMBERS(SPARSE_DEPLOY_COUNT)
};
#define SPARSE_DEPLOY_CHECK_MEMBER(name, result, parameters)                                          \
  static_assert(offsetof(CustomOp, name) == (k##name + 1) * sizeof(void *), #name " has a different position"); \
  static_assert(std::is_same<decltype(CustomOp::name), result(*) parameters>::value, #name " has a different type");
SPARSE_DEPLOY_ORT_CUSTOM_OP_MEMBERS(SPARSE_DEPLOY_CHECK_MEMBER)

}  // namespace ort
