// SPDX-License-Identifier: Apache-2.0
// Common parts of the products. Included after epilogue.h.

// Prefetches the next weights from memory to L2, a few lines per step: each request reads bert-base's packed weights
// from L3 or DRAM, and the hardware prefetchers start too late at the end of every chunk.
class Prefetcher {
 public:
  SD_INLINE_MEMBER explicit Prefetcher(const Packed &p, const Tile &tile)
      : at_(tile.prefetch ? tile.prefetch : p.data), advance_(tile.prefetch ? 64 : 0),
        lines_(tile.prefetch ? tile.prefetch_lines : 1) {}
  SD_INLINE_MEMBER void step() {
    int32_t lines = lines_;
    do {
      __builtin_prefetch(at_, 0, 2);
      at_ += advance_;
    } while (--lines > 0);
  }

 private:
  const uint8_t *at_;
  int64_t advance_;
  int32_t lines_;
};

// A tile of 1 ... kMax tokens.
template <template <int> class TileOf, int kMax>
static void multiply_tile(const Packed &p, const Tile &tile, int32_t tokens, const Epilogue &e) {
  if constexpr (kMax > 0) {
    if (tokens == kMax)
      TileOf<kMax>::run(p, tile, e);
    else
      multiply_tile<TileOf, kMax - 1>(p, tile, tokens, e);
  }
}
