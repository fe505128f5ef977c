// SPDX-License-Identifier: Apache-2.0
// The C interface: unwraps arguments, calls the core, and converts errors to sd_error.
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "instruction_sets/choice.h"
#include "layer.h"
#include "linear.h"
#include "memory.h"
#include "profile.h"
#include "stored_weight.h"

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

void report(sd_error *error, const char *message) {
  if (error) std::snprintf(error->message, sizeof error->message, "%s", message);
}

// Catches all exceptions of `call`. Returns 0, or 1 with a message.
template <typename Call>
int guarded(sd_error *error, Call call) {
  try {
    call();
    return 0;
  } catch (const std::bad_alloc &) {
    report(error, "out of memory");
  } catch (const std::exception &e) {
    report(error, e.what());
  } catch (...) {
    report(error, "unknown exception");
  }
  return 1;
}

// Text that is created on first use; "" if there is no memory for it.
template <typename Make>
const char *text(Make make) {
  const char *result = "";
  guarded(nullptr, [&] { result = make(); });
  return result;
}

// Makes an object by `build(made, set)`, which returns "" or the problem.
template <typename T, typename Build>
T *create(sd_error *error, const char *isa, Build build) {
  T *result = nullptr;
  guarded(error, [&] {
    const sd::InstructionSet *set = sd::find_set(isa);
    if (!set)
      throw std::invalid_argument(std::string("instruction set ") + isa +
                                  " is unknown or not supported by this CPU; expected " + sd::supported_sets());
    auto made = std::make_unique<T>();
    const std::string problem = build(*made, *set);
    if (!problem.empty()) throw std::invalid_argument(problem);
    result = made.release();
  });
  return result;
}

}  // namespace

int sd_abi_version(void) { return SD_ABI_VERSION; }
const char *sd_isa(void) { return text([] { return sd::default_set().name; }); }
const char *sd_isa_note(void) { return text(sd::choice_note); }
const char *sd_isa_supported(void) { return text(sd::supported_sets); }
const char *sd_layouts(void) {
  return text([] {
    static const std::string names = sd::layout_names();
    return names.c_str();
  });
}

sd_weight *sd_weight_create(const uint8_t *blob, size_t blob_size, const char *layout, const char *isa,
                            sd_error *error) {
  return create<sd_weight>(error, isa, [&](sd_weight &made, const sd::InstructionSet &set) {
    sd::Matrix matrix;
    const std::string problem = sd::read_stored_weight(blob, blob_size, matrix);
    return problem.empty() ? sd::pack(matrix, layout, set, made.weight) : problem;
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
  std::snprintf(info->layout, sizeof info->layout, "%s", w.packed.layout->name);
  std::snprintf(info->pattern, sizeof info->pattern, "%s", w.pattern);
}

void sd_weight_unpack(const sd_weight *weight, int8_t *dense) { sd::unpack(weight->weight.packed, dense); }

int sd_matmul_i32(const sd_weight *weight, const uint8_t *x, int64_t m, int32_t *y, const sd_pool *pool,
                  sd_error *error) {
  return guarded(error, [&] { sd::run_accumulators(weight->weight, x, m, y, pool); });
}

sd_linear *sd_linear_create(const sd_linear_config *config, sd_error *error) {
  return create<sd_linear>(error, config->isa, [&](sd_linear &made, const sd::InstructionSet &set) {
    sd::Matrix matrix;
    const std::string problem = sd::read_stored_weight(config->blob, config->blob_size, matrix);
    if (!problem.empty()) return problem;
    return sd::build_linear(matrix, config->scale, config->bias, config->activation, config->quantization,
                            config->layout, set, made.linear);
  });
}

void sd_linear_destroy(sd_linear *linear) { delete linear; }

// sd_weight has one member, so both have the same address.
const sd_weight *sd_linear_weight(const sd_linear *linear) {
  return reinterpret_cast<const sd_weight *>(&linear->linear.weight);
}

int sd_linear_run(const sd_linear *linear, const float *x, int64_t m, float *y, const sd_pool *pool, sd_error *error) {
  return guarded(error, [&] { sd::run_linear(linear->linear, x, m, y, pool); });
}

sd_layer *sd_layer_create(const sd_layer_config *config, sd_error *error) {
  return create<sd_layer>(error, config->isa, [&](sd_layer &made, const sd::InstructionSet &set) {
    return made.layer.build(*config, set);
  });
}

void sd_layer_destroy(sd_layer *layer) { delete layer; }

const sd_weight *sd_layer_weight(const sd_layer *layer, int linear) {
  if (linear < 0 || linear >= SD_LINEARS) return nullptr;
  return reinterpret_cast<const sd_weight *>(&layer->layer.linears[linear].weight);
}

int sd_layer_run(const sd_layer *layer, const sd_layer_inputs *inputs, float *y, const sd_pool *pool, sd_error *error) {
  return guarded(error, [&] { layer->layer.run(*inputs, y, pool); });
}

size_t sd_profile(char *lines, size_t size) {
  size_t length = 0;
  guarded(nullptr, [&] { length = sd::read_profile(lines, size); });
  return length;
}

int64_t sd_fail_allocation(int64_t after) { return sd::fail_allocation(after); }
