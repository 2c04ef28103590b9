// y = x · W.T for weights quantized in groups, unpacked in registers.
//
// A lane is an output row, so a weight vector is used for every token of a tile and each output is summed over the
// columns in order: its bits depend neither on how many tokens share the step nor on their place among them.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels.hpp"
#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kPanel = 16;                        // rows of a panel
constexpr size_t kPerPanel = kPanel / Vec::width;    // vectors that cover it
constexpr size_t kTokenTile = Vec::width == 16 ? 12 : 4;  // tokens of a full tile: 32 (16) registers, less a few

constexpr size_t kFewTokens = Vec::width == 16 ? 3 : 1;

// The weights of one column, for one panel: codes are read in pairs of columns where two share a byte.
template <bool FourBit>
struct Codes;

template <>
struct Codes<false> {
    static constexpr size_t bytes_per_column_pair = 2 * kPanel;
    static void load(const int8_t* at, Vec (&even)[kPerPanel], Vec (&odd)[kPerPanel]) {
        for (size_t i = 0; i < kPerPanel; ++i) {
            even[i] = Vec::codes(at + i * Vec::width);
            odd[i] = Vec::codes(at + kPanel + i * Vec::width);
        }
    }
};

template <>
struct Codes<true> {
    static constexpr size_t bytes_per_column_pair = kPanel;
    static void load(const int8_t* at, Vec (&even)[kPerPanel], Vec (&odd)[kPerPanel]) {
        const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        const __m128i nibble = _mm_set1_epi8(15);
        alignas(16) int8_t low[kPanel], high[kPanel];
        _mm_store_si128(reinterpret_cast<__m128i*>(low), _mm_and_si128(both, nibble));
        _mm_store_si128(reinterpret_cast<__m128i*>(high), _mm_and_si128(_mm_srli_epi16(both, 4), nibble));
        for (size_t i = 0; i < kPerPanel; ++i) {
            even[i] = Vec::codes(low + i * Vec::width);
            odd[i] = Vec::codes(high + i * Vec::width);
        }
    }
};

// One tile: Tokens tokens times Panels panels. x is packed: (columns, tile) with the tile's true height as stride.
template <size_t Tokens, size_t Panels, bool FourBit>
inline void linear_tile(const float* x, const GroupedMatrix& w, size_t panel, const float* bias, float* y) {
    constexpr size_t kVecs = Panels * kPerPanel;
    const size_t code_stride = w.columns / 2 * Codes<FourBit>::bytes_per_column_pair;
    const size_t n_groups = w.columns / w.group;
    const int8_t* codes = w.codes + panel * code_stride;

    Vec sum[Tokens][kVecs];
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) sum[t][i] = Vec::zero();

    for (size_t group = 0; group < n_groups; ++group) {
        Vec scale[kVecs], minimum[kVecs];
        for (size_t p = 0; p < Panels; ++p)
            for (size_t i = 0; i < kPerPanel; ++i) {
                const size_t at = ((panel + p) * n_groups + group) * kPanel + i * Vec::width;
                scale[p * kPerPanel + i] = Vec::load(w.scales + at);
                minimum[p * kPerPanel + i] = w.minima ? Vec::load(w.minima + at) : Vec::zero();
            }
        for (size_t pair = 0; pair < w.group / 2; ++pair) {
            Vec even[kVecs], odd[kVecs];
            for (size_t p = 0; p < Panels; ++p) {
                Vec e[kPerPanel], o[kPerPanel];
                Codes<FourBit>::load(codes + p * code_stride, e, o);
                for (size_t i = 0; i < kPerPanel; ++i) {
                    even[p * kPerPanel + i] = Vec::fma(e[i], scale[p * kPerPanel + i], minimum[p * kPerPanel + i]);
                    odd[p * kPerPanel + i] = Vec::fma(o[i], scale[p * kPerPanel + i], minimum[p * kPerPanel + i]);
                }
            }
#pragma GCC unroll 16
            for (size_t t = 0; t < Tokens; ++t) {
                const Vec a = Vec::all(x[t]);
#pragma GCC unroll 8
                for (size_t i = 0; i < kVecs; ++i) sum[t][i] = Vec::fma(a, even[i], sum[t][i]);
            }
#pragma GCC unroll 16
            for (size_t t = 0; t < Tokens; ++t) {
                const Vec a = Vec::all(x[Tokens + t]);
#pragma GCC unroll 8
                for (size_t i = 0; i < kVecs; ++i) sum[t][i] = Vec::fma(a, odd[i], sum[t][i]);
            }
            x += 2 * Tokens;
            codes += Codes<FourBit>::bytes_per_column_pair;
        }
    }

    for (size_t p = 0; p < Panels; ++p) {
        const size_t row = (panel + p) * kPanel;
        const size_t rows = w.rows - row < kPanel ? w.rows - row : kPanel;
        for (size_t t = 0; t < Tokens; ++t) {
            float result[kPanel];
            for (size_t i = 0; i < kPerPanel; ++i) sum[t][p * kPerPanel + i].store(result + i * Vec::width);
            if (bias)
                for (size_t r = 0; r < rows; ++r) result[r] += bias[row + r];
            std::memcpy(y + t * w.rows + row, result, rows * sizeof(float));
        }
    }
}

using LinearTile = void (*)(const float*, const GroupedMatrix&, size_t, const float*, float*);

template <size_t Panels, bool FourBit, size_t... Heights>
inline LinearTile linear_tile_of(size_t tokens, std::index_sequence<Heights...>) {
    static constexpr LinearTile tiles[] = {linear_tile<Heights + 1, Panels, FourBit>...};
    return tiles[tokens - 1];
}

template <bool FourBit>
inline void linear_panels(const float* packed, size_t tokens, const GroupedMatrix& w, const float* bias, float* y,
                          size_t first_panel, size_t last_panel) {
    using Heights = std::make_index_sequence<kTokenTile>;
    using FewHeights = std::make_index_sequence<kFewTokens>;
    // Tokens in blocks that stay in the second-level cache while all panels of this thread pass by.
    const size_t block = std::max(kTokenTile, (384 << 10) / (w.columns * sizeof(float)) / kTokenTile * kTokenTile);
    for (size_t start = 0; start < tokens; start += block) {
        const size_t stop = std::min(tokens, start + block);
        // Few tokens leave registers free: more panels at once hide the latency of the sums.
        const size_t widest = stop - start <= kFewTokens ? 4 : 2;
        for (size_t panel = first_panel, width; panel < last_panel; panel += width) {
            const size_t left = last_panel - panel;
            width = left >= widest ? widest : left >= 2 ? 2 : 1;
            for (size_t token = start; token < stop; token += kTokenTile) {
                const size_t height = std::min(kTokenTile, tokens - token);
                const LinearTile tile = width == 4   ? linear_tile_of<4, FourBit>(height, FewHeights{})
                                        : width == 2 ? linear_tile_of<2, FourBit>(height, Heights{})
                                                     : linear_tile_of<1, FourBit>(height, Heights{});
                tile(packed + token * w.columns, w, panel, bias, y + token * w.rows);
            }
        }
    }
}

inline void linear(const float* packed, size_t tokens, const GroupedMatrix& w, const float* bias, float* y,
                   size_t first_panel, size_t last_panel) {
    if (w.four_bit)
        linear_panels<true>(packed, tokens, w, bias, y, first_panel, last_panel);
    else
        linear_panels<false>(packed, tokens, w, bias, y, first_panel, last_panel);
}

// (tokens, columns) → tiles of (columns, height): a tile's broadcasts read memory in order.
inline void pack_tokens(const float* x, size_t tokens, size_t columns, float* packed, size_t first, size_t last) {
    for (size_t tile = first; tile < last; ++tile) {
        const size_t token = tile * kTokenTile;
        const size_t height = std::min(kTokenTile, tokens - token);
        float* out = packed + token * columns;
        for (size_t column = 0; column < columns; ++column)
            for (size_t t = 0; t < height; ++t) *out++ = x[(token + t) * columns + column];
    }
}

}  // namespace rowspan::ROWSPAN_ISA
