// Rows of 16-bit integers with a scale each, as keys and values may be cached and as attention computes with them.
//
// The sum of a product's terms stays below 2³¹ for any two rows of which one is cached, with 12 bits and a sign per
// element, and the other, of q or of softmax's weights, is fine: up to 15 bits, as long as all add up to less than 2¹⁹.
#pragma once

#include "dot.hpp"

namespace rowspan::ROWSPAN_ISA {

// Limits of a row's codes: the largest code, and the sum of their magnitudes.
struct CodeLimits {
    float each, sum;
};
constexpr float kMaxRow = 512.0f;                                       // elements
constexpr CodeLimits kCachedCodes = {4095.0f, 4095.0f * kMaxRow};       // 2¹² - 1; the sum is no limit
constexpr CodeLimits kFineCodes = {32767.0f, 524288.0f - kMaxRow / 2};  // 2¹⁵ - 1; 2¹⁹ less what rounding may add

// The scale of a row's codes, from the largest of its magnitudes and their sum, both still spread over lanes. NaN if an
// element is, by the sum.
inline float code_scale(Vec largest, Vec sums, CodeLimits limits) {
    const float by_each = largest.largest() / limits.each, by_sum = sums.sum() / limits.sum;
    return by_each > by_sum ? by_each : by_sum;
}
// The factor that turns elements into codes. Rows of zeros, or of numbers too small to tell from these, have codes 0.
inline float codes_per_unit(float scale) { return scale > 1e-30f ? 1.0f / scale : 0.0f; }

// Words of a row that are read, those after its own zeros; an i16 cache takes no heads that have such.
constexpr size_t kWordsAtOnce = 16;
inline size_t n_words(size_t size) { return (size + kWordsAtOnce - 1) / kWordsAtOnce * kWordsAtOnce; }

// words (n_words) = the codes of a row of floats (size). Returns their scale.
inline float encode(const float* row, size_t size, CodeLimits limits, int16_t* words) {
    const size_t whole = size / Vec::width * Vec::width;
    float rest[Vec::width] = {};
    for (size_t d = whole; d < size; ++d) rest[d - whole] = row[d];
    const auto by_vectors = [&](auto visit) {
        for (size_t d = 0; d < whole; d += Vec::width) visit(d, Vec::load(row + d));
        if (whole < size) visit(whole, Vec::load(rest));
    };
    Vec largest = Vec::zero(), sums = Vec::zero();
    by_vectors([&](size_t, Vec x) {
        largest = Vec::max(largest, magnitudes(x));
        sums = sums + magnitudes(x);
    });
    const float scale = code_scale(largest, sums, limits);
    const Vec per_unit = Vec::all(codes_per_unit(scale));
    by_vectors([&](size_t d, Vec x) { Ints::rounded(x * per_unit).store_words(words + d); });
    for (size_t d = (size + Vec::width - 1) / Vec::width * Vec::width; d < n_words(size); ++d) words[d] = 0;
    return scale;
}

// The pair of words at this address, in all lanes.
inline Ints pair_at(const int16_t* words) {
    int32_t pair;
    __builtin_memcpy(&pair, words, sizeof pair);
    return Ints::all(pair);
}

}  // namespace rowspan::ROWSPAN_ISA
