// SPDX-License-Identifier: Apache-2.0
// The dense product of Arm's dot product instructions: 16 of the layout's 64 rows and 16 k at a time. One load reads
// the activations of a token for four steps; each step uses one lane. Included after dot.h.

template <int kTokens>
struct DenseTile {
  static void run(const Packed &p, const Tile &tile, const Epilogue &e) {
    for (int64_t g = tile.group_begin; g < tile.group_end; ++g)
      for (int64_t r = 0; r < 64; r += 16) sixteen(p, tile, e, g, r);
  }

  static void sixteen(const Packed &p, const Tile &tile, const Epilogue &e, int64_t g, int64_t r) {
    const uint8_t *data = p.data + p.first[g] * 256 + r * 4, *x = tile.x;
    int32x4_t sums[kTokens][4] = {};
    int64_t steps = p.first[g + 1] - p.first[g];
    for (; steps >= 4; steps -= 4, data += 1024, x += 16) {
      int8x16_t tokens[kTokens];
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) tokens[t] = vreinterpretq_s8_u8(vld1q_u8(x + t * tile.x_stride));
      add_step<0>(sums, tokens, data);
      add_step<1>(sums, tokens, data + 256);
      add_step<2>(sums, tokens, data + 512);
      add_step<3>(sums, tokens, data + 768);
    }
    for (; steps; --steps, data += 256, x += 4) {
      int8x16_t tokens[kTokens];
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) tokens[t] = vreinterpretq_s8_u8(splat_four(x + t * tile.x_stride));
      add_step<0>(sums, tokens, data);
    }
    I32 out[kTokens];
    for (int t = 0; t < kTokens; ++t) __builtin_memcpy(&out[t], sums[t], sizeof(I32));
    finish<kTokens>(out, e, g * 64 + r, tile.token);
  }

  template <int kLane>
  SD_INLINE void add_step(int32x4_t (&sums)[kTokens][4], const int8x16_t (&tokens)[kTokens], const uint8_t *data) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int8x16_t weights = vreinterpretq_s8_u8(vld1q_u8(data + i * 16));
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) sums[t][i] = vdotq_laneq_s32(sums[t][i], weights, tokens[t], kLane);
    }
  }
};
