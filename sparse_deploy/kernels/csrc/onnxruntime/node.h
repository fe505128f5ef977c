// SPDX-License-Identifier: Apache-2.0
// The interface of a node for an operator: constants and attributes when the session is created, tensors when the node
// runs, shapes while the graph is resolved. Every error is a Failure with one line of text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../operators/node.h"
#include "ort_abi.h"

namespace ort {

class Failure : public std::runtime_error {
 public:
  explicit Failure(const std::string &message, ErrorCode code_ = kFail) : std::runtime_error(message), code(code_) {}
  const ErrorCode code;
};

// Throws an error that ONNX Runtime reported.
void check(const Api &api, Status *status);

using operators::Constant;
using operators::shape_text;

struct Tensor {
  void *data;
  std::vector<int64_t> dims;
};

// Used while a kernel is created. Pointers to constants are valid as long as the session.
class NodeInfo final : public operators::Node {
 public:
  NodeInfo(const Api &api, const KernelInfo *info, const char *op);

  const std::string &label() const { return label_; }  // SparseLinear node 'name'
  bool has_input(size_t index) const override;
  Constant<uint8_t> bytes(size_t index, const char *name, int64_t expected) const override;
  Constant<float> floats(size_t index, const char *name, int64_t expected) const override;

  std::string text(const char *attribute, const char *missing) const override;
  int64_t whole_number(const char *attribute, const int64_t *missing) const override;
  float number(const char *attribute, const float *missing) const override;

  [[noreturn]] void fail(const std::string &problem) const override;

 private:
  Tensor constant(size_t index, const char *name, ElementType type, int64_t expected) const;
  // The functions that read an attribute do not distinguish a missing attribute from one of another type.
  bool present(const char *attribute) const;
  [[noreturn]] void fail_attribute(const char *attribute, const char *kind) const;

  const Api &api_;
  const KernelInfo *info_;
  size_t inputs_ = 0;
  std::string label_;
};

class Pool;

// Used while a kernel runs.
class RunContext {
 public:
  RunContext(const Api &api, KernelContext *context, const std::string &label, Pool &pool_)
      : pool(pool_), api_(api), context_(context), label_(label) {}

  Tensor input(size_t index) const;
  void *output(const std::vector<int64_t> &dims);
  [[noreturn]] void fail(const std::string &problem, ErrorCode code = kInvalidArgument) const;

  Pool &pool;

 private:
  const Api &api_;
  KernelContext *context_;
  const std::string &label_;
};

// Used while the graph is resolved: a dimension is a number, a name, or unknown.
struct Dimension {
  int64_t value;  // -1: not a number
  std::string name;
};

class ShapeInference {
 public:
  ShapeInference(const Api &api, ShapeInferContext *context) : api_(api), context_(context) {}
  std::vector<Dimension> input(size_t index) const;  // empty: unknown; output() accepts it
  int64_t whole_number(const char *attribute, int64_t missing) const;
  void output(const std::vector<Dimension> &dims);

 private:
  const Api &api_;
  ShapeInferContext *context_;
};

}  // namespace ort
