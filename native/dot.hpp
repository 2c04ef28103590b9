// Sums of products of bytes, four in each 32-bit lane, or of 16-bit integers, two in each. See simd.hpp for why everything
// is per namespace.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

#if defined(__AVX512F__)

struct Ints {
    static constexpr size_t width = 16;
    __m512i v;

    static Ints zero() { return {_mm512_setzero_si512()}; }
    static Ints all(int32_t x) { return {_mm512_set1_epi32(x)}; }
    static Ints load(const void* p) { return {_mm512_loadu_si512(p)}; }
    // 16 bytes, over and over.
    static Ints sixteen(const void* p) {
        return {_mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
    }
    // Of every 16 bytes those in the places, 0 … 15, that the bytes of `places` name.
    Ints looked_up(Ints places) const { return {_mm512_shuffle_epi8(v, places.v)}; }
    void store(void* p) const { _mm512_storeu_si512(p, v); }
    Vec to_floats() const { return {_mm512_cvtepi32_ps(v)}; }
    Vec bits() const { return {_mm512_castsi512_ps(v)}; }
    static Ints rounded(Vec x) { return {_mm512_cvtps_epi32(x.v)}; }
    // Of 16-bit integers those of one array in the lower halves of the lanes, those of the other in the upper ones.
    static Ints interleaved(const int16_t* low, const int16_t* high) {
        const __m512i lower = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low)));
        const __m512i upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(high)));
        return {_mm512_or_si512(lower, _mm512_slli_epi32(upper, 16))};
    }
    // Elements in -32768 … 32767.
    void store_words(int16_t* p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
    }
    // Lanes of four bytes: of each of four vectors, whose elements are in -128 … 127.
    static Ints bytes(const Ints (&of)[4]) {
        const auto byte = [&](int i) { return _mm512_and_si512(of[i].v, _mm512_set1_epi32(255)); };
        const auto low = _mm512_or_si512(byte(0), _mm512_slli_epi32(byte(1), 8));
        return {_mm512_or_si512(low, _mm512_or_si512(_mm512_slli_epi32(byte(2), 16), _mm512_slli_epi32(of[3].v, 24)))};
    }
    friend Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
    Ints low_halves() const { return {_mm512_and_si512(v, _mm512_set1_epi8(15))}; }
    Ints high_halves() const { return {_mm512_and_si512(_mm512_srli_epi32(v, 4), _mm512_set1_epi8(15))}; }
    // Of each byte, bits 2 k and 2 k + 1 as its bits 4 and 5.
    template <int k>
    Ints upper_bits() const {
        __m512i moved;
        if constexpr (k < 2)
            moved = _mm512_slli_epi32(v, 4 - 2 * k);
        else
            moved = _mm512_srli_epi32(v, 2 * k - 4);
        return {_mm512_and_si512(moved, _mm512_set1_epi8(48))};
    }
    friend Ints operator|(Ints a, Ints b) { return {_mm512_or_si512(a.v, b.v)}; }
    // Of pairs of bfloat16, the upper halves of floats, the first ones and the second ones.
    Vec first_bfloats() const { return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16))}; }
    Vec second_bfloats() const {
        return {_mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000))))};
    }
};

// sums + the products of (codes - kImplied<Wide>) and activations (signed), added up over each lane's four bytes. Wide:
// codes use all of 8 bits, not just seven.
template <bool Wide>
constexpr int32_t kImplied = 0;

template <bool Wide>
inline Ints dot(Ints codes, Ints activations, Ints sums) {
    return {_mm512_dpbusd_epi32(sums.v, codes.v, activations.v)};
}

// sums + the products of a's and b's signed 16-bit integers, added up over each lane's two. In assembly as gcc 12 copies
// the sums of its intrinsic to and fro, two moves for each product.
inline Ints dot_pairs(Ints a, Ints b, Ints sums) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sums.v) : "v"(a.v), "v"(b.v));
    return sums;
}

#else

struct Ints {
    static constexpr size_t width = 8;
    __m256i v;

    static Ints zero() { return {_mm256_setzero_si256()}; }
    static Ints all(int32_t x) { return {_mm256_set1_epi32(x)}; }
    static Ints load(const void* p) { return {_mm256_loadu_si256(static_cast<const __m256i*>(p))}; }
    static Ints sixteen(const void* p) {
        return {_mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
    }
    Ints looked_up(Ints places) const { return {_mm256_shuffle_epi8(v, places.v)}; }
    void store(void* p) const { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
    Vec to_floats() const { return {_mm256_cvtepi32_ps(v)}; }
    Vec bits() const { return {_mm256_castsi256_ps(v)}; }
    static Ints rounded(Vec x) { return {_mm256_cvtps_epi32(x.v)}; }
    static Ints interleaved(const int16_t* low, const int16_t* high) {
        const __m256i lower = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(low)));
        const __m256i upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
        return {_mm256_or_si256(lower, _mm256_slli_epi32(upper, 16))};
    }
    void store_words(int16_t* p) const {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
    }
    static Ints bytes(const Ints (&of)[4]) {
        const auto byte = [&](int i) { return _mm256_and_si256(of[i].v, _mm256_set1_epi32(255)); };
        const auto low = _mm256_or_si256(byte(0), _mm256_slli_epi32(byte(1), 8));
        return {_mm256_or_si256(low, _mm256_or_si256(_mm256_slli_epi32(byte(2), 16), _mm256_slli_epi32(of[3].v, 24)))};
    }
    friend Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.v, b.v)}; }
    Ints low_halves() const { return {_mm256_and_si256(v, _mm256_set1_epi8(15))}; }
    Ints high_halves() const { return {_mm256_and_si256(_mm256_srli_epi32(v, 4), _mm256_set1_epi8(15))}; }
    template <int k>
    Ints upper_bits() const {
        __m256i moved;
        if constexpr (k < 2)
            moved = _mm256_slli_epi32(v, 4 - 2 * k);
        else
            moved = _mm256_srli_epi32(v, 2 * k - 4);
        return {_mm256_and_si256(moved, _mm256_set1_epi8(48))};
    }
    friend Ints operator|(Ints a, Ints b) { return {_mm256_or_si256(a.v, b.v)}; }
    Vec first_bfloats() const { return {_mm256_castsi256_ps(_mm256_slli_epi32(v, 16))}; }
    Vec second_bfloats() const {
        return {_mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000))))};
    }
};

// Two products of wide codes may not fit the 16 bits that vpmaddubsw adds them up in. Less 128 they are signed and do, the
// sign moved to the activation: 128 · 127 · 2 < 2¹⁵.
template <bool Wide>
constexpr int32_t kImplied = Wide ? 128 : 0;

template <bool Wide>
inline Ints dot(Ints codes, Ints activations, Ints sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (Wide) {
        const __m256i centred = _mm256_xor_si256(codes.v, _mm256_set1_epi8(-128));
        const __m256i pairs =
            _mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(activations.v, centred));
        return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(pairs, ones))};
    } else {
        return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(_mm256_maddubs_epi16(codes.v, activations.v), ones))};
    }
}

inline Ints dot_pairs(Ints a, Ints b, Ints sums) { return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(a.v, b.v))}; }

#endif

}  // namespace rowspan::ROWSPAN_ISA
