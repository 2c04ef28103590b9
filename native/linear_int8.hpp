// Products of int8 activations and quantized weights, group by group: integer sums, which are exact, then scaled and added
// up in float32, group after group. So an output's bits depend neither on the other tokens of the step nor on threads.
#pragma once

#include "activations.hpp"
#include "strip.hpp"

namespace rowspan::ROWSPAN_ISA {

// How the codes of one matrix are read.
template <bool FourBit, bool Wide, bool HasMinima, size_t Group>
struct Format {
    static constexpr bool four_bit = FourBit, wide = Wide, has_minima = HasMinima;
    static constexpr size_t group = Group;
};

// sums[t][p] += codes · activations over one group of columns.
template <typename F, size_t Tokens, size_t Panels>
inline void dot_group(const uint8_t* const (&codes)[Panels], const int8_t* activations,
                      Ints (&sums)[Tokens][Panels * kPerPanel]) {
    constexpr size_t kStep = F::four_bit ? 8 : 4;  // columns in 64 bytes of a panel
    for (size_t step = 0; step < F::group / kStep; ++step) {
        Ints low[Panels * kPerPanel], high[Panels * kPerPanel];
        for (size_t p = 0; p < Panels; ++p) {
            for (size_t i = 0; i < kPerPanel; ++i) {
                const Ints both = Ints::load(codes[p] + step * 64 + i * Ints::width * 4);
                low[p * kPerPanel + i] = F::four_bit ? both.low_halves() : both;
                if (F::four_bit) high[p * kPerPanel + i] = both.high_halves();
            }
        }
        const int8_t* at = activations + step * kStep * Tokens;
#pragma GCC unroll 8
        for (size_t t = 0; t < Tokens; ++t) {
            int32_t four;
            __builtin_memcpy(&four, at + t * 4, 4);
            const Ints a = Ints::all(four);
#pragma GCC unroll 8
            for (size_t i = 0; i < Panels * kPerPanel; ++i) sums[t][i] = dot<F::wide>(low[i], a, sums[t][i]);
        }
        if constexpr (F::four_bit) {
#pragma GCC unroll 8
            for (size_t t = 0; t < Tokens; ++t) {
                int32_t four;
                __builtin_memcpy(&four, at + (Tokens + t) * 4, 4);
                const Ints a = Ints::all(four);
#pragma GCC unroll 8
                for (size_t i = 0; i < Panels * kPerPanel; ++i) sums[t][i] = dot<F::wide>(high[i], a, sums[t][i]);
            }
        }
    }
}

// y (Tokens, Panels · 16) += tile · strip.
template <typename F, size_t Tokens, size_t Panels>
inline void int8_product(const Int8Tile& tile, const Strip<Panels>& strip, int zero, float* y) {
    constexpr size_t kVecs = Panels * kPerPanel;
    constexpr size_t kGroupBytes = F::group * kPanel / (F::four_bit ? 2 : 1);
    constexpr size_t kSumsPerGroup = F::group / kSummed;
    const int32_t offset = kImplied<F::wide> - zero;

    Vec totals[Tokens][kVecs];
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) totals[t][i] = Vec::load(y + (t * kVecs + i) * Vec::width);

    for (size_t g = 0; g < strip.count / F::group; ++g) {
        const float* scales = tile.scales + g * F::group / kScaled * Tokens;
        int32_t code_sums[Tokens];
        Ints sums[Tokens][kVecs];
        for (size_t t = 0; t < Tokens; ++t) {
            code_sums[t] = tile.sums[g * kSumsPerGroup * Tokens + t];
            if (kSumsPerGroup == 2) code_sums[t] += tile.sums[(g * kSumsPerGroup + 1) * Tokens + t];
            for (size_t i = 0; i < kVecs; ++i) sums[t][i] = Ints::all(offset * code_sums[t]);
        }
        const uint8_t* codes[Panels];
        for (size_t p = 0; p < Panels; ++p) codes[p] = strip.codes[p] + g * kGroupBytes;
        dot_group<F, Tokens, Panels>(codes, tile.codes + g * F::group * Tokens, sums);

        Vec weight_scales[kVecs];
        for (size_t i = 0; i < kVecs; ++i)
            weight_scales[i] = Vec::load(strip.scales[i / kPerPanel][g] + i % kPerPanel * Vec::width);
#pragma GCC unroll 8
        for (size_t t = 0; t < Tokens; ++t) {
            const Vec scale = Vec::all(scales[t]);
#pragma GCC unroll 8
            for (size_t i = 0; i < kVecs; ++i)
                totals[t][i] = Vec::fma(sums[t][i].to_floats(), weight_scales[i] * scale, totals[t][i]);
        }
        if constexpr (F::has_minima) {
#pragma GCC unroll 8
            for (size_t t = 0; t < Tokens; ++t) {
                const Vec sum = Vec::all(scales[t] * static_cast<float>(code_sums[t]));
#pragma GCC unroll 8
                for (size_t i = 0; i < kVecs; ++i)
                    totals[t][i] = Vec::fma(
                        Vec::load(strip.minima[i / kPerPanel][g] + i % kPerPanel * Vec::width), sum, totals[t][i]);
            }
        }
    }
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) totals[t][i].store(y + (t * kVecs + i) * Vec::width);
}

// Four-bit codes of a strip as bytes, for strips that many tokens pass by.
template <size_t Panels>
inline void widen(Strip<Panels>& strip, uint8_t* bytes) {
    for (size_t p = 0; p < Panels; ++p) {
        uint8_t* to = bytes + p * kStripColumns * kPanel;
        for (size_t at = 0; at < strip.count * kPanel / 2; at += 64, to += 128) {
            for (size_t i = 0; i < 64; i += Ints::width * 4) {
                const Ints both = Ints::load(strip.codes[p] + at + i);
                both.low_halves().store(to + i);
                both.high_halves().store(to + 64 + i);
            }
        }
        strip.codes[p] = bytes + p * kStripColumns * kPanel;
    }
}

// Matrix · tokens for the driver in linear.hpp.
template <typename F>
struct Int8Product {
    Int8Tokens tokens;
    const Matrix& w;
    using Bytes = Format<false, F::wide, F::has_minima, F::group>;  // of widened codes

    Int8Product(const void* packed, size_t n_tokens, const Matrix& matrix)
        : tokens(const_cast<void*>(packed), n_tokens, matrix.columns), w(matrix) {}

    // y: for each tile one after the other (h, Panels · 16).
    template <size_t Panels>
    void add(size_t panel, size_t first, size_t count, Range tiles, float* y) const {
        Strip<Panels> strip;
        load_strip(w, panel, first, count, strip);
        alignas(64) uint8_t bytes[F::four_bit ? Panels * kStripColumns * kPanel : 64];
        const bool widened = F::four_bit && tiles.to - tiles.from > 1;
        if (widened) widen(strip, bytes);
        for (size_t tile = tiles.from; tile < tiles.to; ++tile) {
            const size_t height = tile_height(tokens.tokens, tile);
            const Int8Tile from = tokens.tile(tile, first);
            if (widened)
                by_height<Bytes>(height, from, strip, y);
            else
                by_height<F>(height, from, strip, y);
            y += height * Panels * kPanel;
        }
    }

  private:
    template <typename G, size_t Panels>
    void by_height(size_t height, const Int8Tile& from, const Strip<Panels>& strip, float* y) const {
        if constexpr (Panels > kPanelsOfTile) return int8_product<G, 1>(from, strip, w.zero, y);
        switch (height) {
            case 1: return int8_product<G, 1>(from, strip, w.zero, y);
            case 2: return int8_product<G, 2>(from, strip, w.zero, y);
            case 3: return int8_product<G, 3>(from, strip, w.zero, y);
            case 4: return int8_product<G, 4>(from, strip, w.zero, y);
        }
        if constexpr (kTokenTile == 8) {
            switch (height) {
                case 5: return int8_product<G, 5>(from, strip, w.zero, y);
                case 6: return int8_product<G, 6>(from, strip, w.zero, y);
                case 7: return int8_product<G, 7>(from, strip, w.zero, y);
                default: return int8_product<G, 8>(from, strip, w.zero, y);
            }
        }
    }
};

}  // namespace rowspan::ROWSPAN_ISA
