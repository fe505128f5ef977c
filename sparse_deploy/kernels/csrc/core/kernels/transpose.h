// SPDX-License-Identifier: Apache-2.0
// 16 x 16 dwords, rows to columns. Included after simd.h.

#ifdef __AVX512F__
SD_INLINE void transpose(I32 (&v)[16]) {
  __m512i r[16], s[16];
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) r[j] = __m512i(v[j]);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    s[j * 2] = _mm512_unpacklo_epi32(r[j * 2], r[j * 2 + 1]);
    s[j * 2 + 1] = _mm512_unpackhi_epi32(r[j * 2], r[j * 2 + 1]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    r[j * 4] = _mm512_unpacklo_epi64(s[j * 4], s[j * 4 + 2]);
    r[j * 4 + 1] = _mm512_unpackhi_epi64(s[j * 4], s[j * 4 + 2]);
    r[j * 4 + 2] = _mm512_unpacklo_epi64(s[j * 4 + 1], s[j * 4 + 3]);
    r[j * 4 + 3] = _mm512_unpackhi_epi64(s[j * 4 + 1], s[j * 4 + 3]);
  }
  // r[4b + c] holds dwords {c, 4 + c, 8 + c, 12 + c} (one per 128 bits) of rows 4b ... 4b + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    v[c] = I32(_mm512_shuffle_i32x4(a, d, 0x88));
    v[4 + c] = I32(_mm512_shuffle_i32x4(b, e, 0x88));
    v[8 + c] = I32(_mm512_shuffle_i32x4(a, d, 0xdd));
    v[12 + c] = I32(_mm512_shuffle_i32x4(b, e, 0xdd));
  }
}
#endif

// panel[i][j] = dword i of row j, for 16 rows and `count` dwords.
static void transpose16(const int32_t *rows, int64_t row_stride, int64_t valid, int64_t count, int32_t *panel,
                        int64_t panel_stride) {
#ifdef __AVX512F__
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
    I32 r[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) r[j] = j < valid ? I32(_mm512_maskz_loadu_epi32(mask, rows + j * row_stride + i)) : I32{};
    transpose(r);
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j)
      if (i + j < count) *reinterpret_cast<I32Unaligned *>(panel + (i + j) * panel_stride) = r[j];
  }
#else
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < 16; ++j) panel[i * panel_stride + j] = j < valid ? rows[j * row_stride + i] : 0;
#endif
}
