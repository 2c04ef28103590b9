// What the bytes of a block of the IQ3, IQ2 and IQ1 types mean, whose elements are points of grids: see unpack.hpp, and
// src/rowspan/quant/schemes/iq23.py and iq1.py, which describe the blocks.
#pragma once

#include <array>
#include <type_traits>

#include "unpack.hpp"

namespace rowspan {

// A grid's points, each a byte for each of its elements.
template <typename Point, size_t digits>
constexpr auto points_of(const char (&text)[digits]) {
    constexpr int bits = sizeof(Point) == 8 ? 2 : 3, per_point = bits * sizeof(Point) / 4;
    std::array<Point, digits / per_point> points{};
    for (size_t i = 0; i < points.size(); ++i) {
        uint32_t packed = 0;
        for (int digit = 0; digit < per_point; ++digit) {
            const char c = text[i * per_point + digit];
            packed = packed << 4 | static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        for (size_t element = 0; element < sizeof(Point); ++element)
            points[i] |= Point{packed >> bits * element & ((1u << bits) - 1)} << 8 * element;
    }
    return points;
}

template <size_t width>
using PointOf = std::conditional_t<width == 8, uint64_t, uint32_t>;
#define GRID(name, width, digits) constexpr auto kGridOf_##name = points_of<PointOf<width>>(digits);
#include "../src/rowspan/quant/schemes/grids.inc"
#undef GRID

// Bit i of `bits` as bit 3 of byte i: what is added to a code.
inline uint64_t as_fourth_bits(uint8_t bits) {
    constexpr uint64_t ones = ~uint64_t{0} / 255;
    const uint64_t own_bit = bits * ones & 0x8040201008040201;
    return ((own_bit + ones * 0x7f) & ones * 0x80) >> 4;
}

// Seven signs and the eighth, which makes them even.
inline uint8_t eight_signs(uint32_t seven) {
    uint32_t odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return static_cast<uint8_t>(seven | odd << 7);
}

template <size_t bytes, size_t group>
struct GridScheme : BlockScheme<256, bytes, group, Codes::t4, 0, false, false> {
    static constexpr bool kOddFactors = true;

    static void halves_of(const uint8_t* packed, Factors& factors) {
        for (size_t g = 0; g < 256 / group; ++g) factors.odd[g] = packed[g / 2] >> g % 2 * 4 & 15;
    }
    static void store(uint64_t eight, uint8_t*& codes) {
        std::memcpy(codes, &eight, sizeof eight);
        codes += sizeof eight;
    }
    static uint64_t two(uint32_t first, uint32_t second) { return first | uint64_t{second} << 32; }
};

struct IQ3_S : GridScheme<110, 32> {
    static constexpr int8_t kTable[kTableSize] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        halves_of(block + 106, factors);
        const uint8_t *const index = block + 2, *const high = block + 66, *const signs = block + 74;
        const auto point = [&](size_t i) { return kGridOf_IQ3_S[index[i] | (high[i / 8] >> i % 8 & 1) << 8]; };
        for (size_t i = 0; i < 32; ++i) store(two(point(2 * i), point(2 * i + 1)) | as_fourth_bits(signs[i]), codes);
    }
};

struct IQ3_XXS : GridScheme<98, 32> {
    static constexpr float kUnit = 0.5f;
    static constexpr int8_t kTable[kTableSize] = {2, 6, 10, 14, 18, 22, 26, 31, -2, -6, -10, -14, -18, -22, -26, -31};
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        const uint8_t* index = block + 2;
        for (size_t g = 0; g < 8; ++g) {
            const uint32_t word = load<uint32_t>(block + 66 + 4 * g);
            factors.odd[g] = static_cast<uint8_t>(word >> 28);
            for (int eight = 0; eight < 4; ++eight, index += 2)
                store(two(kGridOf_IQ3_XXS[index[0]], kGridOf_IQ3_XXS[index[1]]) |
                          as_fourth_bits(eight_signs(word >> 7 * eight & 127)),
                      codes);
        }
    }
};

constexpr int8_t kIq2Table[kTableSize] = {8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43, 0, 0, 0, 0, 0};

struct IQ2_S : GridScheme<82, 16> {
    static constexpr float kUnit = 0.125f;
    static constexpr auto& kTable = kIq2Table;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        halves_of(block + 74, factors);
        const uint8_t *const index = block + 2, *const signs = block + 34, *const high = block + 66;
        for (size_t i = 0; i < 32; ++i)
            store(kGridOf_IQ2_S[index[i] | (high[i / 4] >> i % 4 * 2 & 3) << 8] | as_fourth_bits(signs[i]), codes);
    }
};

struct IQ2_XS : GridScheme<74, 16> {
    static constexpr float kUnit = 0.125f;
    static constexpr auto& kTable = kIq2Table;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        halves_of(block + 66, factors);
        for (size_t i = 0; i < 32; ++i) {
            const uint32_t word = load<uint16_t>(block + 2 + 2 * i);
            store(kGridOf_IQ2_XS[word & 511] | as_fourth_bits(eight_signs(word >> 9)), codes);
        }
    }
};

struct IQ2_XXS : GridScheme<66, 32> {
    static constexpr float kUnit = 0.125f;
    static constexpr auto& kTable = kIq2Table;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        for (size_t g = 0; g < 8; ++g) {
            const uint8_t* const index = block + 2 + 8 * g;
            const uint32_t word = load<uint32_t>(index + 4);
            factors.odd[g] = static_cast<uint8_t>(word >> 28);
            for (int eight = 0; eight < 4; ++eight)
                store(kGridOf_IQ2_XXS[index[eight]] | as_fourth_bits(eight_signs(word >> 7 * eight & 127)), codes);
        }
    }
};

// -1, 0 and 1, shifted by an eighth up or, from code 8 on, down.
constexpr int8_t kIq1Table[kTableSize] = {-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7, 0, 0, 0, 0, 0};
constexpr uint64_t kShiftedDown = 0x0808080808080808;

struct IQ1_S : GridScheme<50, 32> {
    static constexpr float kUnit = 0.125f;
    static constexpr auto& kTable = kIq1Table;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        for (size_t g = 0; g < 8; ++g) {
            const uint32_t word = load<uint16_t>(block + 34 + 2 * g);
            factors.odd[g] = word >> 12 & 7;
            for (size_t eight = 0; eight < 4; ++eight)
                store(kGridOf_IQ1_S[block[2 + 4 * g + eight] | (word >> 3 * eight & 7) << 8] |
                          (word >> 15) * kShiftedDown,
                      codes);
        }
    }
};

struct IQ1_M : GridScheme<56, 16> {
    static constexpr float kUnit = 0.125f;
    static constexpr auto& kTable = kIq1Table;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        uint32_t scale = 0;
        for (size_t w = 0; w < 4; ++w) {
            const uint32_t word = load<uint16_t>(block + 48 + 2 * w);
            scale |= word >> 12 << 4 * w;
            for (size_t g = 0; g < 4; ++g) factors.odd[4 * w + g] = word >> 3 * g & 7;
        }
        factors.scale = static_cast<uint16_t>(scale);
        for (size_t i = 0; i < 32; ++i) {
            const uint32_t high = block[32 + i / 2] >> i % 2 * 4;
            store(kGridOf_IQ1_S[block[i] | (high & 7) << 8] | (high >> 3 & 1) * kShiftedDown, codes);
        }
    }
};

}  // namespace rowspan
