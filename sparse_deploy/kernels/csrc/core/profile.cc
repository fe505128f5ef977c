// SPDX-License-Identifier: Apache-2.0
#include "profile.h"

#include <time.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace sd {
namespace {

constexpr const char *kPartNames[kParts] = {
    "quantize_input", "query_key_value", "attention", "quantize_attention", "attention_output", "attention_norm",
    "intermediate", "quantize_intermediate", "output", "output_norm", "linear_quantize", "linear_multiply"};

std::atomic<int64_t> nanoseconds[kParts];

const bool enabled = [] {
  const char *value = std::getenv("SPARSE_DEPLOY_PROFILE");
  return value && std::strcmp(value, "1") == 0;
}();

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

}  // namespace

Timed::Timed(Part part) : part_(part), start_(enabled ? now() : 0) {}
Timed::~Timed() {
  if (enabled) nanoseconds[part_].fetch_add(now() - start_, std::memory_order_relaxed);
}

size_t read_profile(char *text, size_t size) {
  std::string lines;
  for (int i = 0; i < kParts && enabled; ++i) {
    char line[96];
    std::snprintf(line, sizeof line, "%s %.9f\n", kPartNames[i], static_cast<double>(nanoseconds[i].load()) * 1e-9);
    lines += line;
  }
  if (text && lines.size() < size) {
    std::memcpy(text, lines.c_str(), lines.size() + 1);
    for (auto &part : nanoseconds) part = 0;
  }
  return lines.size() + 1;
}

}  // namespace sd
