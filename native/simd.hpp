// One vector of floats, in the width the including file was compiled for. Every kernel is written once against it and
// compiled once per instruction set, inside that set's namespace (see isa_*.cpp): nothing here may be shared between
// them, or the linker could pick the copy that the machine cannot run.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "team.hpp"

namespace rowspan::ROWSPAN_ISA {

inline size_t lower(size_t a, size_t b) { return a < b ? a : b; }
inline size_t higher(size_t a, size_t b) { return a < b ? b : a; }

// Ask memory for a line that is needed once, soon: it comes into the first-level cache alone, and what the others hold stays.
ROWSPAN_INLINE void ask_once(const void* at) { __builtin_prefetch(at, 0, 0); }

// Whether a stream is read by way of the second-level cache. On Intel's processors a line that passes it by waits in one of
// the first level's few buffers: of 14 GB/s that a core of an Emerald Rapids Xeon reads, 7 were left, and 1B decoded at half
// its rate (14.9 instead of 28.7 tokens/s). On two of AMD's there was no such difference.
inline const bool kStreamsByWayOfL2 = [] {
    __builtin_cpu_init();
    return !__builtin_cpu_is("amd");
}();

// The same of a long stream, of which nothing is needed again and no more than a little is asked for at a time.
ROWSPAN_INLINE void ask_of_stream(const void* at) {
    kStreamsByWayOfL2 ? __builtin_prefetch(at, 0, 2) : __builtin_prefetch(at, 0, 0);
}

#if defined(__AVX512F__)

struct Vec {
    static constexpr size_t width = 16;
    __m512 v;

    static Vec zero() { return {_mm512_setzero_ps()}; }
    static Vec all(float x) { return {_mm512_set1_ps(x)}; }
    static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
    // int8 codes to floats
    static Vec codes(const int8_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }
    // 16-bit integers to floats
    static Vec words(const int16_t* p) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))))};
    }
    // float16
    // 2^(exponent - 128); below 2^-126 of two numbers without a leading 1.
    static Vec powers(const uint8_t* exponents) {
        const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(exponents)));
        const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
        const __m512i small = _mm512_slli_epi32(_mm512_add_epi32(e, _mm512_set1_epi32(1)), 21);
        return {_mm512_castsi512_ps(
            _mm512_max_epi32(normal, _mm512_min_epi32(small, _mm512_set1_epi32(1 << 22))))};
    }
    // Half of the E4M3 that bytes below 128 are: float16's exponents count from 15, not 7.
    static Vec halved_e4m3(const uint8_t* p) {
        const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return {_mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16(bytes, 7)), _mm512_set1_ps(128.0f))};
    }
    // 2 n + 1 of the 4 bits from some bit on.
    static Vec odd_numbers(const uint8_t* p, int shift) {
        const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        const __m512i n = _mm512_and_si512(_mm512_srl_epi32(bytes, _mm_cvtsi32_si128(shift)), _mm512_set1_epi32(15));
        return {_mm512_cvtepi32_ps(_mm512_or_si512(_mm512_slli_epi32(n, 1), _mm512_set1_epi32(1)))};
    }
    static Vec halves(const uint16_t* p) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
    }
    // bfloat16: the upper half of a float
    static Vec bfloats(const uint16_t* p) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    // Four lanes after the other, each `stride` bytes after those before.
    void store_fours(char* p, size_t stride) const {
        _mm_storeu_ps(reinterpret_cast<float*>(p), _mm512_castps512_ps128(v));
        _mm_storeu_ps(reinterpret_cast<float*>(p + stride), _mm512_extractf32x4_ps(v, 1));
        _mm_storeu_ps(reinterpret_cast<float*>(p + 2 * stride), _mm512_extractf32x4_ps(v, 2));
        _mm_storeu_ps(reinterpret_cast<float*>(p + 3 * stride), _mm512_extractf32x4_ps(v, 3));
    }
    // Integral elements in -128 … 127.
    void store_codes(int8_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
    }
    // Rounded to nearest, ties to even; NaN stays NaN.
    void store_halves(uint16_t* p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    void store_bfloats(uint16_t* p) const {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
    friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
    // a · b + c with one rounding
    static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    // a with the lowest 9 bits of b added to its exponent, as a signed number
    static Vec add_exponent(Vec a, Vec b) {
        const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(b.v), 23);
        return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shifted))};
    }
    // The elements of a in lanes from … to - 1, and those of b in the others.
    static Vec choose(Vec a, Vec b, size_t from, size_t to) {
        return {_mm512_mask_blend_ps(static_cast<__mmask16>((1u << to) - (1u << from)), b.v, a.v)};
    }
    float sum() const { return _mm512_reduce_add_ps(v); }
    float largest() const { return _mm512_reduce_max_ps(v); }
};

#else

struct Vec {
    static constexpr size_t width = 8;
    __m256 v;

    static Vec zero() { return {_mm256_setzero_ps()}; }
    static Vec all(float x) { return {_mm256_set1_ps(x)}; }
    static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
    static Vec codes(const int8_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
    }
    static Vec words(const int16_t* p) {
        return {_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
    }
    static Vec powers(const uint8_t* exponents) {
        const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(exponents)));
        const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        const __m256i small = _mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(1)), 21);
        return {_mm256_castsi256_ps(
            _mm256_max_epi32(normal, _mm256_min_epi32(small, _mm256_set1_epi32(1 << 22))))};
    }
    static Vec halved_e4m3(const uint8_t* p) {
        const __m128i bytes = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        return {_mm256_mul_ps(_mm256_cvtph_ps(_mm_slli_epi16(bytes, 7)), _mm256_set1_ps(128.0f))};
    }
    static Vec odd_numbers(const uint8_t* p, int shift) {
        const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
        const __m256i n = _mm256_and_si256(_mm256_srl_epi32(bytes, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(15));
        return {_mm256_cvtepi32_ps(_mm256_or_si256(_mm256_slli_epi32(n, 1), _mm256_set1_epi32(1)))};
    }
    static Vec halves(const uint16_t* p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    }
    static Vec bfloats(const uint16_t* p) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
    }
    void store(float* p) const { _mm256_storeu_ps(p, v); }
    void store_fours(char* p, size_t stride) const {
        _mm_storeu_ps(reinterpret_cast<float*>(p), _mm256_castps256_ps128(v));
        _mm_storeu_ps(reinterpret_cast<float*>(p + stride), _mm256_extractf128_ps(v, 1));
    }
    void store_codes(int8_t* p) const {
        const __m256i wide = _mm256_cvtps_epi32(v);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    }
    void store_halves(uint16_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    void store_bfloats(uint16_t* p) const {
        const __m256i bits = _mm256_castps_si256(v);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), is_nan);
        const __m256i upper = _mm256_srli_epi32(kept, 16);
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
    }

    friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
    friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
    friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
    friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
    static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Vec add_exponent(Vec a, Vec b) {
        const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(b.v), 23);
        return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), shifted))};
    }
    static Vec choose(Vec a, Vec b, size_t from, size_t to) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i after = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(static_cast<int>(from) - 1));
        const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(to)), lanes);
        return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(_mm256_and_si256(after, before)))};
    }
    float sum() const {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    float largest() const {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
};

#endif

inline Vec magnitudes(Vec x) { return Vec::max(x, Vec::zero() - x); }

}  // namespace rowspan::ROWSPAN_ISA
