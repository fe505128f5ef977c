// SPDX-License-Identifier: Apache-2.0
// Transposes 16 x 16 dwords. Included after simd.h.

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
#elif defined(__AVX2__)
// 8 x 8 dwords, in place.
SD_INLINE void transpose8(__m256i (&r)[8]) {
  __m256i s[8];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    s[j * 2] = _mm256_unpacklo_epi32(r[j * 2], r[j * 2 + 1]);
    s[j * 2 + 1] = _mm256_unpackhi_epi32(r[j * 2], r[j * 2 + 1]);
  }
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    r[j * 4] = _mm256_unpacklo_epi64(s[j * 4], s[j * 4 + 2]);
    r[j * 4 + 1] = _mm256_unpackhi_epi64(s[j * 4], s[j * 4 + 2]);
    r[j * 4 + 2] = _mm256_unpacklo_epi64(s[j * 4 + 1], s[j * 4 + 3]);
    r[j * 4 + 3] = _mm256_unpackhi_epi64(s[j * 4 + 1], s[j * 4 + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    s[j] = _mm256_permute2x128_si256(r[j], r[j + 4], 0x20);
    s[j + 4] = _mm256_permute2x128_si256(r[j], r[j + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) r[j] = s[j];
}

SD_INLINE void transpose(I32 (&v)[16]) {
  __m256i *halves = reinterpret_cast<__m256i *>(v);  // row j, columns 8 h ...: halves[2 j + h]
  const auto at = [&](int row, int half) SD_LAMBDA { return halves + (row * 2 + half); };
  __m256i a[8], b[8];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {  // the blocks on the diagonal
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) a[j] = *at(h * 8 + j, h);
    transpose8(a);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) *at(h * 8 + j, h) = a[j];
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) a[j] = *at(j, 1);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) b[j] = *at(8 + j, 0);
  transpose8(a);
  transpose8(b);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) *at(j, 1) = b[j];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) *at(8 + j, 0) = a[j];
}
#else
SD_INLINE void transpose(I32 (&v)[16]) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) {
      const int32_t swapped = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = swapped;
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
  int64_t i = 0;
#ifdef __AVX2__
  for (; i + 8 <= count; i += 8)
    for (int half = 0; half < 2; ++half) {
      __m256i r[8];
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j)
        r[j] = half * 8 + j < valid ? _mm256_loadu_si256(reinterpret_cast<const __m256i *>(
                                          rows + (half * 8 + j) * row_stride + i))
                                    : __m256i{};
      transpose8(r);
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(panel + (i + j) * panel_stride + half * 8), r[j]);
    }
#endif
  for (; i < count; ++i)
    for (int64_t j = 0; j < 16; ++j) panel[i * panel_stride + j] = j < valid ? rows[j * row_stride + i] : 0;
#endif
}
