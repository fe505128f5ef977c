// SPDX-License-Identifier: Apache-2.0
#include "stored_weight.h"

#include <array>
#include <cstring>

namespace sd {
namespace {

constexpr uint32_t kMagic = 0x57445053;
constexpr size_t kHeader = 32;
constexpr uint32_t kMaxSide = 1u << 20;

enum Encoding : uint16_t { kEncodingDense = 0, kElement, kBlock4x1Units, kBlock1x4Units };

template <typename T>
T load(const uint8_t *p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// CRC-32 as in zlib (polynomial 0xEDB88320), slicing by 8, because every session reads all weights.
uint32_t crc32(const uint8_t *p, size_t size) {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) ? 0xEDB88320u : 0);
      t[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; ++i)
      for (size_t s = 1; s < 8; ++s) t[s][i] = (t[s - 1][i] >> 8) ^ t[0][t[s - 1][i] & 255];
    return t;
  }();
  uint32_t c = ~0u;
  for (; size >= 8; size -= 8, p += 8) {
    uint64_t v = load<uint64_t>(p) ^ c;
    c = 0;
    for (size_t i = 0; i < 8; ++i) c ^= tables[7 - i][(v >> (8 * i)) & 255];
  }
  for (; size; --size, ++p) c = (c >> 8) ^ tables[0][(c ^ *p) & 255];
  return ~c;
}

std::string quantity(const char *what, uint64_t expected, uint64_t found) {
  return std::string("damaged weight: expected ") + std::to_string(expected) + " " + what + ", found " +
         std::to_string(found);
}

}  // namespace

std::string read_stored_weight(const uint8_t *blob, size_t size, Matrix &matrix) {
  if (!blob || size < kHeader) return quantity("bytes of header at least", kHeader, size);
  if (load<uint32_t>(blob) != kMagic) return "not a sparse weight: the first four bytes are not SPDW";
  if (load<uint16_t>(blob + 4) != 1) return quantity("as the layout version", 1, load<uint16_t>(blob + 4));
  const uint16_t encoding = load<uint16_t>(blob + 6);
  const uint32_t n = load<uint32_t>(blob + 8), k = load<uint32_t>(blob + 12);
  const uint64_t units = load<uint64_t>(blob + 16);
  if (encoding > kBlock1x4Units) return "damaged weight: unknown encoding " + std::to_string(encoding);
  if (!n || !k || n > kMaxSide || k > kMaxSide)
    return "damaged weight: shape " + std::to_string(n) + " x " + std::to_string(k) + " is out of range";
  const uint64_t unit = encoding >= kBlock4x1Units ? 4 : 1;
  const uint64_t grid_n = encoding == kBlock4x1Units ? (n + 3) / 4 : n;
  const uint64_t grid_k = encoding == kBlock1x4Units ? (k + 3) / 4 : k;
  const uint64_t grid = grid_n * grid_k;  // at most 2^40
  const uint64_t bitmap = encoding == kEncodingDense ? 0 : (grid + 7) / 8;
  if (k > kMostInputs)
    return "a weight of " + std::to_string(k) + " input channels: at most " + std::to_string(kMostInputs) +
           " are supported, so that positions fit 16 bits and sums fit int32";
  if (load<uint32_t>(blob + 28)) return quantity("in the reserved field", 0, load<uint32_t>(blob + 28));
  if (units > grid) return quantity("units at most", grid, units);
  const uint64_t expected = kHeader + bitmap + units * unit;
  if (size != expected) return quantity("bytes", expected, size);
  if (crc32(blob + kHeader, size - kHeader) != load<uint32_t>(blob + 24))
    return "damaged weight: the checksum does not match";
  if (encoding == kEncodingDense && units != grid) return quantity("units", grid, units);

  const uint8_t *bits = blob + kHeader;
  const int8_t *values = reinterpret_cast<const int8_t *>(bits + bitmap);
  for (uint64_t i = 0; i < units * unit; ++i)
    if (values[i] == -128) return "damaged weight: value -128 is outside -127 ... 127";
  if (bitmap) {
    uint64_t kept = 0;
    for (uint64_t i = 0; i < bitmap; ++i) kept += static_cast<uint64_t>(__builtin_popcount(bits[i]));
    if (kept != units) return quantity("bits set in the bitmap", units, kept);
    if (grid % 8 && bits[bitmap - 1] >> (grid % 8)) return "damaged weight: bits beyond the matrix are set";
  }

  matrix.n = n;
  matrix.k = k;
  if (encoding == kEncodingDense) {
    matrix.w.assign(values, values + grid);
    return "";
  }
  matrix.w.assign(static_cast<size_t>(n) * k, 0);
  int8_t *w = matrix.w.data();
  const int8_t *value = values;
  for (uint64_t byte = 0; byte < bitmap; ++byte) {
    for (uint32_t left = bits[byte]; left; left &= left - 1, value += unit) {
      const uint64_t cell = byte * 8 + static_cast<uint64_t>(__builtin_ctz(left));
      const uint64_t row = cell / grid_k, column = cell % grid_k;
      int any = 0;
      for (uint64_t i = 0; i < unit; ++i) {
        any |= value[i];
        const uint64_t r = encoding == kBlock4x1Units ? row * 4 + i : row;
        const uint64_t c = encoding == kBlock1x4Units ? column * 4 + i : column;
        if (r < n && c < k) {
          w[r * k + c] = value[i];
        } else if (value[i]) {
          return "damaged weight: a value outside the matrix is not 0";
        }
      }
      if (!any) return "damaged weight: a kept unit has only zeros";
    }
  }
  return "";
}

}  // namespace sd
