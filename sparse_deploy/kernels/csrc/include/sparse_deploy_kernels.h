// SPDX-License-Identifier: Apache-2.0
// The kernel core's C interface: pack an INT8 matrix once, multiply with it from any thread pool. It is independent of
// runtimes; the adapters for ONNX Runtime and OpenVINO, the Python loader, the tests and the benchmarks all use this
// header.
//
// Functions that can fail return a null pointer or a nonzero code and fill the sd_error: one line, zero-terminated. No
// exception leaves the library, and after a failure all objects can still be used.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SD_EXPORT __attribute__((visibility("default")))
#else
#define SD_EXPORT
#endif

#define SD_ABI_VERSION 4

typedef struct sd_error {
  char message[256];
} sd_error;

typedef enum sd_activation {
  SD_ACTIVATION_NONE = 0,
  SD_ACTIVATION_GELU = 1,       // erf
  SD_ACTIVATION_GELU_TANH = 2,
  SD_ACTIVATION_RELU = 3,
  SD_ACTIVATION_TANH = 4,
} sd_activation;

// Quantization of activations to u8. scale > 0: static, u8 = clamp(round(x / scale) + zero_point). scale == 0: dynamic,
// one scale and zero point per row of x, from the row's minimum and maximum (0 included).
typedef struct sd_quantization {
  float scale;
  int32_t zero_point;
} sd_quantization;

// The caller's thread pool. `run` calls task(arg, i) once for each i in [0, count), from any threads, in any order. It
// returns 0 after all tasks have returned, or another number if it could not run all tasks and none is still running.
// Tasks need not start at the same time. Neither tasks nor `run` may throw. A null pool, or threads <= 1, runs
// serially.
typedef struct sd_pool {
  void *context;
  int (*run)(void *context, void (*task)(void *arg, size_t index), void *arg, size_t count);
  int32_t threads;  // expected number of tasks that run at the same time
} sd_pool;

// ---- the library -------------------------------------------------------------------------------------------------

SD_EXPORT int sd_abi_version(void);
// The default instruction set: "avx512_bf16", "avx512_vbmi", "avx512_vnni", "avx2_vnni", "avx2", "portable"; on Arm
// "dotprod", "portable". It is chosen once, from the features of the CPU or the environment variable SPARSE_DEPLOY_ISA
// (for an unknown or unsupported name the default is used, and sd_isa_note returns the reason).
SD_EXPORT const char *sd_isa(void);
SD_EXPORT const char *sd_isa_note(void);        // "" or one line
SD_EXPORT const char *sd_isa_supported(void);   // the sets that this CPU has, best first, separated by commas
SD_EXPORT const char *sd_layouts(void);         // the layouts of a packed weight, separated by commas

// ---- one weight --------------------------------------------------------------------------------------------------

typedef struct sd_weight sd_weight;  // immutable; safe to use from many threads

typedef struct sd_weight_info {
  int64_t n, k;
  int64_t nonzeros;
  int64_t packed_bytes;
  double fill;         // multiply-add slots of the packed form / (n * k); 1 for dense
  double cost;         // predicted time / that of the dense kernel
  char layout[24];     // "dense", "unstructured", "one_of_two" (1:2), "block_4x1", "block_1x4", ...
  char pattern[24];    // detected: "dense", "unstructured", "1:2", "block_4x1", "block_1x4"
} sd_weight_info;

// Pack a weight from its compact form (docs/sparse_operators.md). Damaged input is refused. `layout` forces one of the
// layouts above, which must be able to represent the matrix; "dense" means the dense layout of the instruction set;
// null or "" chooses by the costs of the set. `isa` is one of sd_isa_supported(); null or "" is sd_isa().
SD_EXPORT sd_weight *sd_weight_create(const uint8_t *blob, size_t blob_size, const char *layout, const char *isa,
                                      sd_error *error);
SD_EXPORT void sd_weight_destroy(sd_weight *weight);
SD_EXPORT void sd_weight_describe(const sd_weight *weight, sd_weight_info *info);
// Unpack the matrix: int8 [n, k], row-major.
SD_EXPORT void sd_weight_unpack(const sd_weight *weight, int8_t *dense);

// Exact accumulators: y[m, n] = sum_k x[m, k] * w[n, k], int32; x is u8 [m, k] row-major without padding.
SD_EXPORT int sd_matmul_i32(const sd_weight *weight, const uint8_t *x, int64_t m, int32_t *y, const sd_pool *pool,
                            sd_error *error);

// ---- SparseLinear ------------------------------------------------------------------------------------------------

typedef struct sd_linear sd_linear;

typedef struct sd_linear_config {
  const uint8_t *blob;
  size_t blob_size;
  const float *scale;  // [n]
  const float *bias;   // [n] or null
  sd_activation activation;
  sd_quantization quantization;
  const char *layout, *isa;  // as in sd_weight_create
} sd_linear_config;

SD_EXPORT sd_linear *sd_linear_create(const sd_linear_config *config, sd_error *error);
SD_EXPORT void sd_linear_destroy(sd_linear *linear);
SD_EXPORT const sd_weight *sd_linear_weight(const sd_linear *linear);
// x [m, k] -> y [m, n], float32 row-major. A row of x with a NaN or an infinity gives a row of NaN.
SD_EXPORT int sd_linear_run(const sd_linear *linear, const float *x, int64_t m, float *y, const sd_pool *pool,
                            sd_error *error);

// ---- SparseEncoderLayer ------------------------------------------------------------------------------------------

typedef struct sd_layer sd_layer;

enum { SD_QUERY = 0, SD_KEY, SD_VALUE, SD_ATTENTION_OUTPUT, SD_INTERMEDIATE, SD_OUTPUT, SD_LINEARS };

typedef struct sd_layer_config {
  int64_t hidden, intermediate, heads;
  float epsilon;
  sd_activation activation;
  struct {
    const uint8_t *blob;
    size_t blob_size;
    const float *scale;
    const float *bias;
  } linears[SD_LINEARS];
  const float *attention_gamma, *attention_beta, *output_gamma, *output_beta;  // [hidden]
  // The rows of x and y (docs/sparse_operators.md). output_tokens: the number of tokens of each sequence, from the
  // first on, in y; 0: all. Unpadded: the array starts with the rows of all tokens, without padding. y has only one of
  // the two.
  int64_t output_tokens;
  int32_t unpadded_input, unpadded_output;
  int32_t position_bias;            // 1: the layer runs with a bias
  float attention_scale;            // factor of q kT; 0: 1 / sqrt(head size)
  float output_epsilon;             // epsilon of the output LayerNorm; 0: epsilon
  // 1: LayerNorm before attention and before the feed-forward block, none after them. A null attention_gamma then means
  // that attention has no LayerNorm.
  int32_t norm_first;
  int32_t gated;                    // 1: the intermediate weight has 2 * intermediate rows: activated ones, then factors
  int32_t packed_qkv;               // 1: linears[SD_QUERY] has the 3 * hidden rows of q, k, v; the next two are unused
  int32_t rotary;                   // 1: the layer runs with cosines and sines of positions
  int64_t window;                   // largest distance of tokens that attend to each other; 0: no limit
  sd_quantization quantization[4];  // inputs of q/k/v, attention output, intermediate, output
  const char *isa;                  // as in sd_weight_create
} sd_layer_config;

SD_EXPORT sd_layer *sd_layer_create(const sd_layer_config *config, sd_error *error);
SD_EXPORT void sd_layer_destroy(sd_layer *layer);
SD_EXPORT const sd_weight *sd_layer_weight(const sd_layer *layer, int linear);

typedef struct sd_layer_inputs {
  const float *x;       // [batch, sequence, hidden]
  const int64_t *mask;  // [batch, sequence], 0 = padding
  int64_t batch, sequence;
  // Added to the scaled products of queries and keys, [bias_batch, heads, sequence, sequence]; bias_batch is 1 or
  // batch. Null and 0 if the layer has no bias.
  const float *bias;
  int64_t bias_batch;
  const float *cos, *sin;  // [sequence, head size] each; null without rotary positions
} sd_layer_inputs;

// y has the form of x, float32; x and y may be the same array.
SD_EXPORT int sd_layer_run(const sd_layer *layer, const sd_layer_inputs *inputs, float *y, const sd_pool *pool,
                           sd_error *error);

// Seconds per phase since the last call, summed over threads, if SPARSE_DEPLOY_PROFILE=1: writes lines of
// "name seconds\n" into text and returns the required length. For benchmarks/encoder.py --profile.
SD_EXPORT size_t sd_profile(char *text, size_t size);

// For tests: makes one of the library's memory allocations fail, in any thread: the one after the next `after`
// allocations; a negative number switches this off. Releases memory kept by earlier calls. Returns the number of
// allocations since the last call.
SD_EXPORT int64_t sd_fail_allocation(int64_t after);

// ---- probes of the machine, for benchmarks -------------------------------------------------------------------------

enum { SD_PROBE_LINE = 32 };  // 128 bytes: two cache lines, since CPUs fetch neighbouring lines in pairs

// Counters that the threads of one probe share, each in separate cache lines; zeros before each probe.
typedef struct sd_probe_memory {
  uint32_t turn[SD_PROBE_LINE], arrived[SD_PROBE_LINE], late[SD_PROBE_LINE];
} sd_probe_memory;

// Nanoseconds for the transfer of a changed cache line between two CPUs (half of a round trip); the minimum of
// `repeats`, because other processes only increase the time. Two threads on different CPUs call it at the same time,
// one with second = 0, the other with 1. Below 0 if no repeat ended within the limit: if other processes use the CPUs,
// each exchange waits for the scheduler.
SD_EXPORT double sd_probe_ping_pong(sd_probe_memory *memory, int second, int round_trips, int repeats,
                                    double limit_seconds);
// 1e9 multiply-adds per second of the calling thread's CPU while `threads` threads call it at the same time; another
// process on a CPU reduces the rate. A multiply-add is one vpdpbusd of 512 bits if the CPU has it, else a 256-bit FMA,
// else a multiplication of 64-bit integers. Below 0 if the threads did not start together within the limit.
SD_EXPORT double sd_probe_work_rate(sd_probe_memory *memory, int threads, int64_t rounds, double limit_seconds);

#ifdef __cplusplus
}
#endif
