// Turns rows into columns, for kernels that compute one dimension of many rows at a time.
#pragma once

#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

#if defined(__AVX512F__)

// Elements d … d + 3 of rows 0, 4, 8 and 12, one row per 128-bit lane. The lanes are filled by loads, which leaves only
// the shuffles within a lane to the one port that shuffles.
inline Vec load_quads(const float* const* rows, size_t d) {
    __m512 quads = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + d));
    quads = _mm512_insertf32x4(quads, _mm_loadu_ps(rows[4] + d), 1);
    quads = _mm512_insertf32x4(quads, _mm_loadu_ps(rows[8] + d), 2);
    return {_mm512_insertf32x4(quads, _mm_loadu_ps(rows[12] + d), 3)};
}

// Of each 128-bit lane (a0 a1 a2 a3), (b0 b1 b2 b3): (a0 b0 a1 b1), (a2 b2 a3 b3), (a0 a1 b0 b1), (a2 a3 b2 b3).
inline Vec mix_low(Vec a, Vec b) { return {_mm512_unpacklo_ps(a.v, b.v)}; }
inline Vec mix_high(Vec a, Vec b) { return {_mm512_unpackhi_ps(a.v, b.v)}; }
inline Vec join_low(Vec a, Vec b) { return {_mm512_shuffle_ps(a.v, b.v, _MM_SHUFFLE(1, 0, 1, 0))}; }
inline Vec join_high(Vec a, Vec b) { return {_mm512_shuffle_ps(a.v, b.v, _MM_SHUFFLE(3, 2, 3, 2))}; }

#else

// Elements d … d + 3 of rows 0 and 4.
inline Vec load_quads(const float* const* rows, size_t d) {
    const __m256 quads = _mm256_castps128_ps256(_mm_loadu_ps(rows[0] + d));
    return {_mm256_insertf128_ps(quads, _mm_loadu_ps(rows[4] + d), 1)};
}

inline Vec mix_low(Vec a, Vec b) { return {_mm256_unpacklo_ps(a.v, b.v)}; }
inline Vec mix_high(Vec a, Vec b) { return {_mm256_unpackhi_ps(a.v, b.v)}; }
inline Vec join_low(Vec a, Vec b) { return {_mm256_shuffle_ps(a.v, b.v, _MM_SHUFFLE(1, 0, 1, 0))}; }
inline Vec join_high(Vec a, Vec b) { return {_mm256_shuffle_ps(a.v, b.v, _MM_SHUFFLE(3, 2, 3, 2))}; }

#endif

// columns (size, stride) = the transpose of rows (width), of which the first `size` elements, a multiple of 4, are taken;
// fills `width` elements of each line.
inline void transpose(const float* const* rows, size_t size, float* columns, size_t stride) {
    for (size_t d = 0; d < size; d += 4) {
        const Vec a = load_quads(rows, d), b = load_quads(rows + 1, d);
        const Vec c = load_quads(rows + 2, d), e = load_quads(rows + 3, d);
        const Vec ab_low = mix_low(a, b), ab_high = mix_high(a, b);
        const Vec ce_low = mix_low(c, e), ce_high = mix_high(c, e);
        join_low(ab_low, ce_low).store(columns + d * stride);
        join_high(ab_low, ce_low).store(columns + (d + 1) * stride);
        join_low(ab_high, ce_high).store(columns + (d + 2) * stride);
        join_high(ab_high, ce_high).store(columns + (d + 3) * stride);
    }
}

}  // namespace rowspan::ROWSPAN_ISA
