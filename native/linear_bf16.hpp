// Products of bfloat16 weights and tokens rounded to bfloat16 with AVX512_BF16. An output's lane adds up its columns in
// order, whatever the other tokens of the step.
#pragma once

#include "bfloats.hpp"
#include "each.hpp"
#include "kernels.hpp"
#include "linear.hpp"

namespace rowspan::ROWSPAN_ISA {

using PairedTokens = BfloatTokens<kTokenTile, 2>;

// y (Tokens, Panels · 16) += x (pairs, Tokens, 2) · weights (Panels of (pairs, 16, 2)). streaming: the weights come from
// memory, and what follows them will be next.
template <size_t Tokens, size_t Panels>
inline void bfloat_product(const uint16_t* x, const uint16_t* const (&weights)[Panels], size_t pairs, bool streaming,
                           float* y) {
    Vec totals[Tokens][Panels];
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t p = 0; p < Panels; ++p) totals[t][p] = Vec::load(y + (t * Panels + p) * kPanel);
    for (size_t pair = 0; pair < pairs; ++pair) {
        Ints w[Panels];
        for (size_t p = 0; p < Panels; ++p) {
            const uint16_t* at = weights[p] + pair * 2 * kPanel;
            w[p] = Ints::load(at);
            if (streaming) __builtin_prefetch(reinterpret_cast<const char*>(at) + kAhead<Tokens>);
        }
#pragma GCC unroll 8
        for (size_t t = 0; t < Tokens; ++t) {
            int32_t both;
            __builtin_memcpy(&both, x + (pair * Tokens + t) * 2, sizeof both);
            const Ints a = Ints::all(both);
#pragma GCC unroll 8
            for (size_t p = 0; p < Panels; ++p) totals[t][p] = dot_bfloats(w[p], a, totals[t][p]);
        }
    }
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t p = 0; p < Panels; ++p) totals[t][p].store(y + (t * Panels + p) * kPanel);
}

// Matrix · tokens for the driver in linear.hpp.
struct BfloatProduct {
    PairedTokens tokens;

    template <size_t Panels>
    void add(const Panel (&panels)[Panels], size_t first, size_t count, Range tiles, float* y) const {
        const uint16_t* weights[Panels];
        for (size_t p = 0; p < Panels; ++p) weights[p] = panels[p].bfloats(first);
        for (size_t tile = tiles.from; tile < tiles.to; ++tile) {
            const size_t token = tile * kTokenTile, height = tokens.height(token);
            visit_block<Panels == kPanelsOfOne ? 1 : kTokenTile>(height, token, [&](auto block, size_t) {
                bfloat_product<block.rows>(tokens.tile(token, first), weights, (count + 1) / 2, tile == tiles.from, y);
            });
            y += height * Panels * kPanel;
        }
    }
};

inline void linear_bfloats(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks) {
    const BfloatProduct product = {{const_cast<void*>(packed), tokens, op.w.columns}};
    linear_of(product, op, tokens, team, tasks);
}

}  // namespace rowspan::ROWSPAN_ISA
