// Products of bfloat16 weights and tokens rounded to bfloat16 with AVX512_BF16. An output's lane adds up its columns in
// order, whatever the other tokens of the step.
#pragma once

#include "bfloats.hpp"
#include "each.hpp"
#include "kernels.hpp"
#include "linear.hpp"

namespace rowspan::ROWSPAN_ISA {

using PairedTokens = BfloatTokens<kTokenTile, 2>;

// y (Tiles · Tokens, Panels · 16) += tiles x (pairs, Tokens, 2), so far apart, · weights (Panels of (pairs, 16, 2)).
// streaming: the weights come from memory, and what follows them will be next.
template <size_t Tokens, size_t Tiles, size_t Panels>
inline void bfloat_product(const uint16_t* x, size_t tile_stride, const uint16_t* const (&weights)[Panels], size_t pairs,
                           bool streaming, float* y) {
    constexpr size_t kTogether = Tiles * Tokens;
    Vec totals[kTogether][Panels];
    for (size_t t = 0; t < kTogether; ++t)
        for (size_t p = 0; p < Panels; ++p) totals[t][p] = Vec::load(y + (t * Panels + p) * kPanel);
    for (size_t pair = 0; pair < pairs; ++pair) {
        Ints w[Panels];
        for (size_t p = 0; p < Panels; ++p) {
            const uint16_t* at = weights[p] + pair * 2 * kPanel;
            w[p] = Ints::load(at);
            if (streaming) __builtin_prefetch(reinterpret_cast<const char*>(at) + kAhead<kTogether>);
        }
#pragma GCC unroll 8
        for (size_t t = 0; t < kTogether; ++t) {
            int32_t both;
            __builtin_memcpy(&both, x + t / Tokens * tile_stride + (pair * Tokens + t % Tokens) * 2, sizeof both);
            const Ints a = Ints::all(both);
#pragma GCC unroll 8
            for (size_t p = 0; p < Panels; ++p) totals[t][p] = dot_bfloats(w[p], a, totals[t][p]);
        }
    }
    for (size_t t = 0; t < kTogether; ++t)
        for (size_t p = 0; p < Panels; ++p) totals[t][p].store(y + (t * Panels + p) * kPanel);
}

// Matrix · tokens for the driver in linear.hpp.
struct BfloatProduct {
    PairedTokens tokens;

    template <size_t Panels>
    void add(const Panel (&panels)[Panels], size_t first, size_t count, Range tiles, float* y) const {
        const uint16_t* weights[Panels];
        for (size_t p = 0; p < Panels; ++p) weights[p] = panels[p].bfloats(first);
        const size_t pairs = (count + 1) / 2, stride = kTokenTile * tokens.columns;
        const size_t start = tiles.from * kTokenTile, end = lower(tokens.tokens, tiles.to * kTokenTile);
        size_t token = start;
        const auto add_tiles = [&](auto height, auto together) {
            bfloat_product<height.rows, together.rows>(tokens.tile(token, first), stride, weights, pairs, token == start,
                                                       y + (token - start) * Panels * kPanel);
            token += height.rows * together.rows;
        };
        // One tile has too few sums to hide their latency: with one at a time a prompt takes 1.3 times as long.
        if constexpr (Panels < kPanelsOfOne)
            while (token + 2 * kTokenTile <= end) add_tiles(Block<kTokenTile>(), Block<2>());
        while (token < end)
            visit_block<Panels == kPanelsOfOne ? 1 : kTokenTile>(
                tokens.height(token), token, [&](auto height, size_t) { add_tiles(height, Block<1>()); });
    }
};

inline void linear_bfloats(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks) {
    const BfloatProduct product = {{const_cast<void*>(packed), tokens, op.w.columns}};
    linear_of(product, op, tokens, team, tasks);
}

}  // namespace rowspan::ROWSPAN_ISA
