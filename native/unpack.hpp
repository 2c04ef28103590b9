// What the bytes of one block of each quantized scheme mean. Block layouts are those of ggml
// (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h), described in src/rowspan/quant; little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "matrix.hpp"

namespace rowspan {

// The factors of a block's groups, as in `Matrix`; those of groups where the scheme has them. odd: of 2 n + 1 the n.
struct Factors {
    uint16_t scale = 0, minimum = 0;
    int8_t sub_scales[kSuperBlock / 16] = {}, sub_minima[kSuperBlock / 16] = {};
    uint8_t e4m3[4] = {}, odd[kSuperBlock / 16] = {};
};

template <typename T>
T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline uint16_t negated_half(const void* from) { return load<uint16_t>(from) ^ 0x8000; }

// Fields of `bits` bits, from `width` bytes at a time: the lowest field of each of them, then the next ones. They are
// written to `out`, a byte each; or, with a shift, added to what it holds, shifted left.
template <int bits, size_t width, int shift = 0>
void bit_fields(const uint8_t* __restrict in, size_t bytes, uint8_t* __restrict out) {
    constexpr uint64_t mask = ~uint64_t{0} / 255 * ((1 << bits) - 1);
    constexpr size_t word = width < 8 ? width : 8;  // bytes taken at once
    for (const uint8_t* end = in + bytes; in < end; in += width)
        for (int low = 0; low < 8; low += bits)
            for (size_t i = 0; i < width; i += word, out += word) {
                uint64_t packed = 0, fields = 0;
                std::memcpy(&packed, in + i, word);
                if (shift) std::memcpy(&fields, out, word);
                fields |= ((packed >> low) & mask) << shift;
                std::memcpy(out, &fields, word);
            }
}

// Bit i of `in` is bit 4 of code i.
inline void add_fifth_bits(const uint8_t* in, size_t bytes, uint8_t* codes) {
    constexpr uint64_t ones = ~uint64_t{0} / 255;
    for (size_t i = 0; i < bytes; ++i) {
        const uint64_t own_bit = in[i] * ones & 0x8040201008040201;  // byte k holds bit k alone, where it is
        const uint64_t top_bit = (own_bit + ones * 0x7f) & ones * 0x80;
        const uint64_t with = load<uint64_t>(codes + 8 * i) | top_bit >> 3;
        std::memcpy(codes + 8 * i, &with, sizeof with);
    }
}

// A scheme: `columns` elements in `bytes` bytes. unpack() gives their codes, a byte each in the order of columns, and
// the factors by which value = scale · (code - zero) + minimum, `group` columns sharing them. Of t4 there is a kTable of
// what codes stand for, and zero is the code of rows that are not there.
template <size_t columns, size_t bytes, size_t group, Codes kind, int zero, bool minima, bool sub_scales,
          bool exponents = false>
struct BlockScheme {
    static constexpr size_t kColumns = columns, kBytes = bytes, kGroup = group;
    static constexpr Codes kKind = kind;
    static constexpr int kZero = zero;
    static constexpr bool kMinima = minima, kSubScales = sub_scales;
    static constexpr bool kExponents = exponents;  // scales are powers of two: factors.scale tells which
    static constexpr bool kE4m3 = false, kOddFactors = false;  // others may have them in place of scales, of sub_scales
    static constexpr float kUnit = 1.0f;                       // what a table's numbers count
};

struct Q8_0 : BlockScheme<32, 34, 32, Codes::u8, 128, false, false> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        for (size_t i = 0; i < kColumns; ++i) codes[i] = block[2 + i] ^ 0x80;  // two's complement + 128
    }
};

struct Q4_0 : BlockScheme<32, 18, 32, Codes::u4, 8, false, false> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        bit_fields<4, 16>(block + 2, 16, codes);
    }
};

struct Q4_1 : BlockScheme<32, 20, 32, Codes::u4, 0, true, false> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        factors.minimum = load<uint16_t>(block + 2);
        bit_fields<4, 16>(block + 4, 16, codes);
    }
};

struct Q5_0 : BlockScheme<32, 22, 32, Codes::u6, 16, false, false> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        bit_fields<4, 16>(block + 6, 16, codes);
        add_fifth_bits(block + 2, 4, codes);
    }
};

struct Q5_1 : BlockScheme<32, 24, 32, Codes::u6, 0, true, false> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        factors.minimum = load<uint16_t>(block + 2);
        bit_fields<4, 16>(block + 8, 16, codes);
        add_fifth_bits(block + 4, 4, codes);
    }
};

struct Q2_K : BlockScheme<256, 84, 16, Codes::u4, 0, true, true> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block + 80);
        factors.minimum = negated_half(block + 82);
        for (size_t g = 0; g < 16; ++g) {
            factors.sub_scales[g] = block[g] & 15;
            factors.sub_minima[g] = block[g] >> 4;
        }
        bit_fields<2, 32>(block + 16, 64, codes);
    }
};

struct Q3_K : BlockScheme<256, 110, 16, Codes::u4, 4, false, true> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block + 108);
        uint8_t scales[16];
        bit_fields<4, 8>(block + 96, 8, scales);
        bit_fields<2, 4, 4>(block + 104, 4, scales);
        for (size_t g = 0; g < 16; ++g) factors.sub_scales[g] = static_cast<int8_t>(scales[g] - 32);
        bit_fields<2, 32>(block + 32, 64, codes);
        bit_fields<1, 32, 2>(block, 32, codes);
    }
};

// What the codes of IQ4_NL and IQ4_XS stand for.
constexpr int8_t kNonLinear[kTableSize] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct IQ4_NL : BlockScheme<32, 18, 32, Codes::t4, 0, false, false> {
    static constexpr auto& kTable = kNonLinear;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        bit_fields<4, 16>(block + 2, 16, codes);
    }
};

struct MXFP4 : BlockScheme<32, 17, 32, Codes::t4, 0, false, false, true> {
    // Of E2M1, doubled: that is why an exponent counts from 128.
    static constexpr int8_t kTable[kTableSize] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = block[0];
        bit_fields<4, 16>(block + 1, 16, codes);
    }
};

struct NVFP4 : BlockScheme<64, 36, 16, Codes::t4, 0, false, false> {
    static constexpr bool kE4m3 = true;
    static constexpr auto& kTable = MXFP4::kTable;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        for (size_t g = 0; g < 4; ++g) factors.e4m3[g] = block[g] == 0x7f ? 0 : block[g] & 0x7f;  // 0x7f: no number
        bit_fields<4, 8>(block + 4, 32, codes);
    }
};

struct IQ4_XS : BlockScheme<256, 136, 32, Codes::t4, 0, false, true> {
    static constexpr auto& kTable = kNonLinear;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block);
        const uint16_t high = load<uint16_t>(block + 2);
        for (size_t g = 0; g < 8; ++g) {
            const int low = block[4 + g / 2] >> g % 2 * 4 & 15;
            factors.sub_scales[g] = static_cast<int8_t>((low | (high >> 2 * g & 3) << 4) - 32);
        }
        bit_fields<4, 16>(block + 8, 128, codes);
    }
};

struct TQ2_0 : BlockScheme<256, 66, 32, Codes::u4, 1, false, false> {
    static constexpr bool kOddFactors = true;  // all 1: the scale is that of the block
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block + 64);
        bit_fields<2, 32>(block, 64, codes);
    }
};

struct TQ1_0 : BlockScheme<256, 54, 32, Codes::u4, 1, false, false> {
    static constexpr bool kOddFactors = true;
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block + 52);
        codes = base_three<32, 5>(block, codes);
        codes = base_three<16, 5>(block + 32, codes);
        base_three<4, 4>(block + 48, codes);
    }

  private:
    // So many bytes' digits, first those of all bytes that come first: fractions of 256 in base 3.
    template <size_t bytes, int digits>
    static uint8_t* base_three(const uint8_t* __restrict in, uint8_t* __restrict out) {
        uint8_t left[bytes];
        std::memcpy(left, in, bytes);
        for (int digit = 0; digit < digits; ++digit, out += bytes)
            for (size_t i = 0; i < bytes; ++i) {
                out[i] = static_cast<uint8_t>(left[i] * 3 >> 8);
                left[i] = static_cast<uint8_t>(left[i] * 3);
            }
        return out;
    }
};

// Scales and minima of Q4_K and Q5_K.
inline void unpack_factors(const uint8_t* block, Factors& factors) {
    factors.scale = load<uint16_t>(block);
    factors.minimum = negated_half(block + 2);
    const uint8_t *a = block + 4, *b = block + 8, *c = block + 12;
    for (size_t i = 0; i < 4; ++i) {
        factors.sub_scales[i] = a[i] & 63;
        factors.sub_minima[i] = b[i] & 63;
        factors.sub_scales[4 + i] = (c[i] & 15) | a[i] >> 6 << 4;
        factors.sub_minima[4 + i] = c[i] >> 4 | b[i] >> 6 << 4;
    }
}

struct Q4_K : BlockScheme<256, 144, 32, Codes::u4, 0, true, true> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        unpack_factors(block, factors);
        bit_fields<4, 32>(block + 16, 128, codes);
    }
};

struct Q5_K : BlockScheme<256, 176, 32, Codes::u6, 0, true, true> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        unpack_factors(block, factors);
        bit_fields<4, 32>(block + 48, 128, codes);
        bit_fields<1, 32, 4>(block + 16, 32, codes);
    }
};

struct Q6_K : BlockScheme<256, 210, 16, Codes::u6, 32, false, true> {
    static void unpack(const uint8_t* block, uint8_t* codes, Factors& factors) {
        factors.scale = load<uint16_t>(block + 208);
        std::memcpy(factors.sub_scales, block + 192, 16);
        bit_fields<4, 64>(block, 128, codes);
        bit_fields<2, 32, 4>(block + 128, 64, codes);
    }
};

}  // namespace rowspan
