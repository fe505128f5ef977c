// SPDX-License-Identifier: Apache-2.0
// An operator's constants and attributes, independent of the runtime. Each adapter implements this interface; config.cc
// checks the constants.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace operators {

template <class T>
struct Constant {
  const T *data;
  size_t count;
};

inline std::string shape_text(const std::vector<int64_t> &dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

// Every method except the first throws the adapter's exception, with one line of text that names the node.
class Node {
 public:
  virtual ~Node() = default;

  virtual bool has_input(size_t index) const = 0;
  // A constant of one dimension; expected < 0 accepts any length.
  virtual Constant<uint8_t> bytes(size_t index, const char *name, int64_t expected) const = 0;
  virtual Constant<float> floats(size_t index, const char *name, int64_t expected) const = 0;

  virtual std::string text(const char *attribute, const char *missing) const = 0;  // missing: the default, or null
  virtual int64_t whole_number(const char *attribute, const int64_t *missing = nullptr) const = 0;  // as above
  virtual float number(const char *attribute, const float *missing = nullptr) const = 0;  // as above

  [[noreturn]] virtual void fail(const std::string &problem) const = 0;
};

}  // namespace operators
