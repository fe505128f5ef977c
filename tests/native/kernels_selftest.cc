// SPDX-License-Identifier: Apache-2.0
// Tests the kernels without Python: exact products for each instruction set and layout, a layer on thread pools, and
// failing allocations. For emulated CPUs, ThreadSanitizer and other compilers (tools/check_kernels.sh). Prints one line
// per set; exits with 1 at the first difference.
#include <sparse_deploy_kernels.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Bytes = std::vector<uint8_t>;
using Floats = std::vector<float>;

[[noreturn]] void fail(const std::string &what) {
  std::fprintf(stderr, "kernels_selftest: %s\n", what.c_str());
  std::exit(1);
}

std::vector<std::string> split(const std::string &names) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= names.size();) {
    const size_t comma = std::min(names.find(',', at), names.size());
    parts.push_back(names.substr(at, comma - at));
    at = comma + 1;
  }
  return parts;
}

// ---- matrices -----------------------------------------------------------------------------------------------------

struct Matrix {
  int64_t n, k;
  std::vector<int8_t> w;
};

bool begins(const std::string &text, const char *with) { return text.rfind(with, 0) == 0; }

// Random values at the positions that a layout allows; "two_of_four" (2:4) is a pattern without a layout of its name.
Matrix make_matrix(const std::string &layout, int64_t n, int64_t k, double kept, std::mt19937 &random) {
  constexpr int kTwoOfFour[] = {0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100};
  std::uniform_int_distribution<int> value(1, 127), coin(0, 1);
  std::bernoulli_distribution keep(kept);
  Matrix m{n, k, std::vector<int8_t>(static_cast<size_t>(n * k))};
  std::vector<bool> cells(static_cast<size_t>((n + 3) * (k + 3)));
  for (auto &&cell : cells) cell = keep(random);
  for (int64_t r = 0; r < n; ++r) {
    int four = 0;
    for (int64_t c = 0; c < k; ++c) {
      if (c % 4 == 0) four = kTwoOfFour[random() % 6];
      bool kept_here = true;
      if (layout == "two_of_four")
        kept_here = four >> c % 4 & 1;
      else if (begins(layout, "one_of_two"))
        kept_here = (c % 2 == 1) == cells[static_cast<size_t>(r * k + c / 2)];
      else if (begins(layout, "block_4x1"))
        kept_here = cells[static_cast<size_t>(r / 4 * k + c)];
      else if (begins(layout, "block_1x4"))
        kept_here = cells[static_cast<size_t>(r * k + c / 4)];
      else if (!begins(layout, "dense"))
        kept_here = cells[static_cast<size_t>(r * k + c)];
      if (kept_here) m.w[static_cast<size_t>(r * k + c)] = static_cast<int8_t>(value(random) * (coin(random) ? 1 : -1));
    }
  }
  return m;
}

uint32_t crc32(const uint8_t *p, size_t size) {
  uint32_t c = ~0u;
  for (; size; --size, ++p) {
    c ^= *p;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) ? 0xEDB88320u : 0);
  }
  return ~c;
}

// The dense encoding of docs/sparse_operators.md.
Bytes encode(const Matrix &m) {
  Bytes blob(32);
  blob.insert(blob.end(), m.w.begin(), m.w.end());
  const uint32_t head[] = {0x57445053, 1, static_cast<uint32_t>(m.n), static_cast<uint32_t>(m.k)};
  const uint64_t units = m.w.size();
  const uint32_t crc = crc32(blob.data() + 32, m.w.size());
  std::memcpy(blob.data(), head, sizeof head);
  std::memcpy(blob.data() + 16, &units, sizeof units);
  std::memcpy(blob.data() + 24, &crc, sizeof crc);
  return blob;
}

// ---- pools --------------------------------------------------------------------------------------------------------

struct ThreadPool {
  explicit ThreadPool(int threads) : handle{this, run, threads} {}
  sd_pool handle;

  static int run(void *, void (*task)(void *, size_t), void *arg, size_t count) {
    std::vector<std::thread> threads;
    int problem = 0;
    try {
      for (size_t i = 1; i < count; ++i) threads.emplace_back(task, arg, i);
    } catch (const std::bad_alloc &) {  // this program's allocations can fail like the library's
      problem = 1;
    }
    task(arg, 0);
    for (std::thread &thread : threads) thread.join();
    return problem;
  }
};

// ---- checks -------------------------------------------------------------------------------------------------------

void check_products(const std::string &isa, const std::string &layout, std::mt19937 &random) {
  constexpr int64_t kShapes[][2] = {{1, 1}, {3, 5}, {16, 64}, {70, 100}, {64, 385}, {130, 257}, {17, 1031}};
  constexpr int64_t kTokens[] = {1, 2, 5, 7, 12, 13, 17, 48, 65};
  std::vector<std::pair<std::string, double>> patterns = {{layout, 0.1}, {layout, 0.5}};
  if (begins(layout, "unstructured")) patterns.emplace_back("two_of_four", 0.5);
  for (const auto &shape : kShapes)
    for (const auto &[pattern, kept] : patterns) {
      const Matrix m = make_matrix(pattern, shape[0], shape[1], kept, random);
      const Bytes blob = encode(m);
      sd_error error{};
      sd_weight *weight = sd_weight_create(blob.data(), blob.size(), layout.c_str(), isa.c_str(), &error);
      if (!weight) fail(isa + ", " + layout + ": " + error.message);
      std::vector<int8_t> back(m.w.size());
      sd_weight_unpack(weight, back.data());
      if (back != m.w) fail(isa + ", " + layout + ": unpacked weights differ");
      for (int64_t tokens : kTokens) {
        Bytes x(static_cast<size_t>(tokens * m.k));
        for (uint8_t &v : x) v = static_cast<uint8_t>(random());
        std::vector<int32_t> y(static_cast<size_t>(tokens * m.n));
        if (sd_matmul_i32(weight, x.data(), tokens, y.data(), nullptr, &error)) fail(error.message);
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t r = 0; r < m.n; ++r) {
            int64_t sum = 0;
            for (int64_t c = 0; c < m.k; ++c)
              sum += m.w[static_cast<size_t>(r * m.k + c)] * x[static_cast<size_t>(t * m.k + c)];
            if (sum != y[static_cast<size_t>(t * m.n + r)])
              fail(isa + ", " + layout + ": row " + std::to_string(r) + " of " + std::to_string(m.n) + " x " +
                   std::to_string(m.k) + ", token " + std::to_string(t) + " of " + std::to_string(tokens) +
                   ": expected " + std::to_string(sum) + ", found " + std::to_string(y[static_cast<size_t>(t * m.n + r)]));
          }
      }
      sd_weight_destroy(weight);
    }
}

struct Linear {
  Matrix m;
  Bytes blob;
  Floats scale, bias;

  Linear(int64_t n, int64_t k, std::mt19937 &random)
      : m(make_matrix("unstructured", n, k, 0.3, random)), blob(encode(m)), scale(static_cast<size_t>(n)),
        bias(static_cast<size_t>(n)) {
    std::uniform_real_distribution<float> any(0.8f, 1.2f);
    for (float &s : scale) s = any(random) * 2.5f / 127 / std::sqrt(0.3f * static_cast<float>(k));
    for (float &b : bias) b = any(random) - 1;
  }
};

Floats normal(size_t count, std::mt19937 &random) {
  std::normal_distribution<float> any;
  Floats values(count);
  for (float &v : values) v = any(random);
  return values;
}

// act(x Wᵀ scale + bias) in double, on activations quantized like the operator's.
void check_linear(const std::string &isa, std::mt19937 &random) {
  constexpr int64_t kRows = 9, kN = 83, kK = 210;
  const Linear linear(kN, kK, random);
  const Floats x = normal(kRows * kK, random);
  sd_error error{};
  for (bool is_static : {false, true}) {
    const sd_linear_config config{linear.blob.data(), linear.blob.size(), linear.scale.data(), linear.bias.data(),
                                  SD_ACTIVATION_GELU, is_static ? sd_quantization{0.03f, 131} : sd_quantization{},
                                  nullptr, isa.c_str()};
    sd_linear *made = sd_linear_create(&config, &error);
    if (!made) fail(isa + ": " + error.message);
    Floats y(kRows * kN), spoilt = x;
    if (sd_linear_run(made, x.data(), kRows, y.data(), nullptr, &error)) fail(error.message);
    for (int64_t t = 0; t < kRows; ++t) {
      float low = 0, high = 0;
      for (int64_t c = 0; c < kK; ++c) {
        low = std::min(low, x[static_cast<size_t>(t * kK + c)]);
        high = std::max(high, x[static_cast<size_t>(t * kK + c)]);
      }
      const float scale = is_static ? 0.03f : (high - low) / 255.0f, zero = is_static ? 131 : std::floor(-low / scale + 0.5f);
      for (int64_t r = 0; r < kN; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < kK; ++c) {
          const float steps = std::nearbyint(x[static_cast<size_t>(t * kK + c)] * (1 / scale)) + zero;
          sum += (std::min(std::max(steps, 0.0f), 255.0f) - zero) * linear.m.w[static_cast<size_t>(r * kK + c)];
        }
        const double v = sum * scale * linear.scale[static_cast<size_t>(r)] + linear.bias[static_cast<size_t>(r)];
        const double expected = v * 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
        if (std::abs(expected - y[static_cast<size_t>(t * kN + r)]) > 6e-4 + 2e-5 * std::abs(expected))
          fail(isa + ": SparseLinear: expected " + std::to_string(expected) + ", found " +
               std::to_string(y[static_cast<size_t>(t * kN + r)]));
      }
    }
    spoilt[4 * kK + 77] = std::nanf("");
    if (sd_linear_run(made, spoilt.data(), kRows, y.data(), nullptr, &error)) fail(error.message);
    for (int64_t i = 0; i < kRows * kN; ++i)
      if (std::isnan(y[static_cast<size_t>(i)]) != (i / kN == 4)) fail(isa + ": SparseLinear: NaN in the wrong rows");
    sd_linear_destroy(made);
  }
}

struct Layer {
  static constexpr int64_t kHidden = 64, kIntermediate = 200, kHead = 16, kLongest = 80;
  sd_layer *layer = nullptr;
  Floats cos, sin;

  // `modern`: with LayerNorm first, a gate, rotary positions and a window.
  Layer(const std::string &isa, std::mt19937 &random, bool modern) {
    std::vector<Linear> linears;
    for (int i = 0; i < SD_LINEARS; ++i)
      linears.emplace_back(i == SD_INTERMEDIATE ? (modern ? 2 : 1) * kIntermediate : kHidden,
                           i == SD_OUTPUT ? kIntermediate : kHidden, random);
    const Floats one(kHidden, 1.0f), none(kHidden, 0.0f);
    sd_layer_config config{};
    config.hidden = kHidden;
    config.intermediate = kIntermediate;
    config.heads = 4;
    config.epsilon = 1e-12f;
    config.activation = SD_ACTIVATION_GELU;
    for (int i = 0; i < SD_LINEARS; ++i)
      config.linears[i] = {linears[i].blob.data(), linears[i].blob.size(), linears[i].scale.data(), linears[i].bias.data()};
    config.attention_gamma = config.output_gamma = one.data();
    config.attention_beta = config.output_beta = none.data();
    config.isa = isa.c_str();
    if (modern) {
      config.norm_first = config.gated = config.rotary = 1;
      config.window = 9;
      for (int64_t i = 0; i < kLongest * kHead; ++i) {
        const float angle = static_cast<float>(i / kHead) * std::pow(100.0f, -static_cast<float>(i % (kHead / 2)) / 8);
        cos.push_back(std::cos(angle));
        sin.push_back(std::sin(angle));
      }
    }
    sd_error error{};
    layer = sd_layer_create(&config, &error);
    if (!layer) fail(isa + ": " + error.message);
  }
  ~Layer() { sd_layer_destroy(layer); }

  // "" or the error. The allocation after the next `after` ones fails; `fired`: whether it happened.
  std::string run(const Floats &x, int64_t batch, int64_t length, Floats &y, int threads, int64_t after = -1,
                  bool *fired = nullptr) const {
    std::vector<int64_t> mask(static_cast<size_t>(batch * length), 1);
    if (batch > 1)
      for (int64_t i = length / 2 + 1; i < length; ++i) mask[static_cast<size_t>(length + i)] = 0;
    y.assign(x.size(), 7);
    const ThreadPool pool(threads);
    sd_error error{};
    if (fired) sd_fail_allocation(after);
    const sd_layer_inputs inputs{x.data(), mask.data(), batch, length, nullptr, 0, cos.data(), sin.data()};
    const int code = sd_layer_run(layer, &inputs, y.data(), &pool.handle, &error);
    if (fired) *fired = sd_fail_allocation(-1) > after;
    return code ? error.message : "";
  }
};

constexpr std::array<std::array<int64_t, 2>, 4> kBatches = {{{1, 3}, {2, 7}, {1, 40}, {3, 70}}};

void check_layer(const std::string &isa, std::mt19937 &random, bool modern) {
  const Layer layer(isa, random, modern);
  for (const auto &[batch, length] : kBatches) {
    const Floats x = normal(static_cast<size_t>(batch * length * Layer::kHidden), random);
    Floats alone, together;
    if (const std::string problem = layer.run(x, batch, length, alone, 1); !problem.empty()) fail(problem);
    double squares = 0;
    for (float v : alone) squares += v * v;
    if (!std::isfinite(squares)) fail(isa + ": SparseEncoderLayer: not finite");
    for (int threads : {2, 3}) {
      if (const std::string problem = layer.run(x, batch, length, together, threads); !problem.empty()) fail(problem);
      if (std::memcmp(alone.data(), together.data(), alone.size() * sizeof(float)))
        fail(isa + ": SparseEncoderLayer: " + std::to_string(threads) + " threads change the answer");
    }
  }
}

// Several concurrent calls of one layer, each on a separate pool; and every allocation of a call fails once.
void check_threads(const std::string &isa, std::mt19937 &random, bool modern) {
  const Layer layer(isa, random, modern);
  for (const auto &[batch, length] : kBatches) {
    const int64_t rows = batch, tokens = length;
    const Floats x = normal(static_cast<size_t>(batch * length * Layer::kHidden), random);
    Floats expected;
    layer.run(x, rows, tokens, expected, 1);
    std::vector<std::thread> callers;
    std::array<Floats, 3> found;
    for (Floats &y : found)
      callers.emplace_back([&layer, &x, &y, rows, tokens] {
        for (int i = 0; i < 3; ++i) layer.run(x, rows, tokens, y, 2);
      });
    for (std::thread &caller : callers) caller.join();
    for (const Floats &y : found)
      if (y != expected) fail(isa + ": calls at the same time disturb each other");
    bool fired = true;
    for (int64_t after = 0; fired; ++after) {
      Floats y;
      const std::string problem = layer.run(x, rows, tokens, y, 2, after, &fired);
      const bool named = problem == "out of memory" || problem == "the thread pool did not run its tasks";
      if (problem.empty() ? y != expected : !named) fail(isa + ": without memory: " + problem);
      if (!layer.run(x, rows, tokens, y, 2).empty() || y != expected) fail(isa + ": the call after one without memory");
    }
  }
}

}  // namespace

// Without arguments: all tests; "threads": only the pool tests; the name of an instruction set: only this set.
int main(int count, char **arguments) {
  const std::string wanted = count > 1 ? arguments[1] : "";
  const bool only_threads = wanted == "threads";
  std::mt19937 random(1);
  bool found = false;
  for (const std::string &isa : split(sd_isa_supported())) {
    if (!wanted.empty() && !only_threads && isa != wanted) continue;
    found = true;
    size_t layouts = 0;
    for (const std::string &layout : split(sd_layouts())) {
      if (only_threads) break;
      check_products(isa, layout, random);
      ++layouts;
    }
    if (!only_threads) check_linear(isa, random);
    for (bool modern : {false, true}) {
      check_layer(isa, random, modern);
      check_threads(isa, random, modern);
    }
    std::printf("%s: %zu layouts exact, pools and failing memory ok\n", isa.c_str(), layouts);
  }
  if (!found) fail("this CPU has no instruction set " + wanted + "; expected threads or one of " + sd_isa_supported());
  return 0;
}
