// SPDX-License-Identifier: Apache-2.0
// The C interface: unwraps, calls, and turns problems into sd_error.
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "dispatch.h"
#include "layer.h"
#include "linear.h"
#include "profile.h"

struct sd_weight {
  sd::Weight weight;
};
struct sd_linear {
  sd::LinearWeights linear;
};
struct sd_layer {
  sd::EncoderLayer layer;
};

namespace {

void report(sd_error *error, const std::string &message) {
  if (error) std::snprintf(error->message, sizeof error->message, "%s", message.c_str());
}

// Makes an object by `build`, which returns "" or the problem; out of memory is a problem too.
template <typename T, typename Build>
T *create(sd_error *error, Build build) {
  try {
    auto made = std::make_unique<T>();
    const std::string problem = build(*made);
    if (problem.empty()) return made.release();
    report(error, problem);
  } catch (const std::exception &e) {
    report(error, std::string("out of memory or worse: ") + e.what());
  }
  return nullptr;
}

}  // namespace

int sd_abi_version(void) { return SD_ABI_VERSION; }
const char *sd_isa(void) { return sd::kernels().name; }
const char *sd_isa_note(void) { return sd::dispatch_note(); }
const char *sd_isa_supported(void) { return sd::supported(); }

sd_weight *sd_weight_create(const uint8_t *blob, size_t blob_size, const char *kernel, sd_error *error) {
  return create<sd_weight>(error, [&](sd_weight &made) {
    sd::Matrix matrix;
    const std::string problem = sd::read_compact(blob, blob_size, matrix);
    return problem.empty() ? sd::pack(matrix, kernel, sd::kernels(), made.weight) : problem;
  });
}

void sd_weight_destroy(sd_weight *weight) { delete weight; }

void sd_weight_describe(const sd_weight *weight, sd_weight_info *info) {
  const sd::Weight &w = weight->weight;
  *info = {};
  info->n = w.packed.n;
  info->k = w.packed.k;
  info->nonzeros = w.nonzeros;
  info->packed_bytes = static_cast<int64_t>(w.bytes);
  info->fill = w.fill;
  info->cost = w.cost;
  std::snprintf(info->kernel, sizeof info->kernel, "%s", sd::layout_name(w.packed.layout));
  std::snprintf(info->pattern, sizeof info->pattern, "%s", w.pattern);
}

void sd_weight_unpack(const sd_weight *weight, int8_t *dense) { sd::unpack(weight->weight.packed, dense); }

void sd_matmul_i32(const sd_weight *weight, const uint8_t *x, int64_t m, int32_t *y, const sd_pool *pool) {
  sd::run_accumulators(weight->weight.packed, x, m, y, pool);
}

sd_linear *sd_linear_create(const sd_linear_config *config, sd_error *error) {
  return create<sd_linear>(error, [&](sd_linear &made) {
    sd::Matrix matrix;
    const std::string problem = sd::read_compact(config->blob, config->blob_size, matrix);
    if (!problem.empty()) return problem;
    return sd::build_linear(matrix, config->scale, config->bias, config->activation, config->quantization,
                            config->kernel, made.linear);
  });
}

void sd_linear_destroy(sd_linear *linear) { delete linear; }

// sd_weight has one member, so its address is that of the weight inside.
const sd_weight *sd_linear_weight(const sd_linear *linear) {
  return reinterpret_cast<const sd_weight *>(&linear->linear.weight);
}

void sd_linear_run(const sd_linear *linear, const float *x, int64_t m, float *y, const sd_pool *pool) {
  sd::run_linear(linear->linear, x, m, y, pool);
}

sd_layer *sd_layer_create(const sd_layer_config *config, sd_error *error) {
  return create<sd_layer>(error, [&](sd_layer &made) { return made.layer.build(*config); });
}

void sd_layer_destroy(sd_layer *layer) { delete layer; }

const sd_weight *sd_layer_weight(const sd_layer *layer, int linear) {
  if (linear < 0 || linear >= SD_LINEARS) return nullptr;
  return reinterpret_cast<const sd_weight *>(&layer->layer.linears[linear].weight);
}

int sd_layer_run(const sd_layer *layer, const float *x, const int64_t *mask, int64_t batch, int64_t sequence, float *y,
                 const sd_pool *pool, sd_error *error) {
  try {
    layer->layer.run(x, mask, batch, sequence, y, pool);
    return 0;
  } catch (const std::exception &e) {
    report(error, e.what());
    return 1;
  }
}

size_t sd_profile(char *text, size_t size) { return sd::read_profile(text, size); }
