// Products of bfloat16 weights and tokens rounded to bfloat16 in the tile registers of AMX, for any number of tokens: a
// tile adds up in another order than AVX512_BF16 does, and a token's bits must not depend on its company. A tile of one
// token keeps up with memory, too: 1 KiB of weights a multiplication.
#pragma once

#include "bfloats.hpp"
#include "each.hpp"
#include "kernels.hpp"
#include "linear.hpp"
#include "tiles.hpp"

namespace rowspan::ROWSPAN_ISA {

using TiledTokens = BfloatTokens<kTileTokens, kBfloatColumns>;
constexpr size_t kTileBfloats = kTileBytes / sizeof(uint16_t);  // weights in a tile: 32 columns of a panel

// Registers 0 to 3 add up, 4 and 5 hold tokens, 6 and 7 weights. height: of the first six.
inline TileConfig bfloat_config(size_t height) {
    TileConfig config;
    for (size_t tile = 0; tile < 6; ++tile) config.rows[tile] = static_cast<uint8_t>(height);
    return config;
}

// y (TokenTiles · height, Panels · 16) += tiles of tokens · weights, so many steps of kBfloatColumns. Four sums are enough
// to hide how long a multiplication takes.
template <int TokenTiles, size_t Panels>
inline void bfloat_tiles(Tiles& registers, const uint16_t* tokens, size_t tile_stride, size_t height,
                         const uint16_t* const (&weights)[Panels], size_t steps, bool streaming, float* y) {
    static_assert(TokenTiles * Panels <= 4 && TokenTiles <= 2);
    constexpr size_t kSumRow = Panels * kPanel * sizeof(float), kTokenRow = kBfloatColumns * sizeof(uint16_t);
    const auto sums_at = [&](int t, int p) { return y + (t * height * Panels + p) * kPanel; };
    each<TokenTiles>([&](auto t) {
        each<Panels>([&](auto p) { registers.load<t.value * Panels + p.value>(sums_at(t.value, p.value), kSumRow); });
    });
    for (size_t step = 0; step < steps; ++step) {
        each<TokenTiles>([&](auto t) {
            const uint16_t* from = tokens + t.value * tile_stride + step * height * kBfloatColumns;
            registers.load<4 + t.value>(from, kTokenRow);
        });
        each<Panels>([&](auto p) {
            const uint16_t* from = weights[p.value] + step * kTileBfloats;
            if (streaming)
                for (size_t at = 0; at < kTileBytes; at += 64)
                    __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead<kTileTokens> + at);
            registers.load<6 + p.value % 2>(from, 2 * kPanel * sizeof(uint16_t));
            each<TokenTiles>([&](auto t) {
                registers.multiply_bfloats<t.value * Panels + p.value, 4 + t.value, 6 + p.value % 2>();
            });
        });
    }
    each<TokenTiles>([&](auto t) {
        each<Panels>([&](auto p) { registers.store<t.value * Panels + p.value>(sums_at(t.value, p.value), kSumRow); });
    });
}

// Matrix · tokens for the driver in linear.hpp, which counts in tiles of kTokenTile.
struct BfloatTileProduct {
    TiledTokens tokens;

    template <size_t Panels>
    void add(const Panel (&panels)[Panels], size_t first, size_t count, Range tiles, float* y) const {
        const uint16_t* weights[Panels];
        for (size_t p = 0; p < Panels; ++p) weights[p] = panels[p].bfloats(first);
        const size_t steps = (count + kBfloatColumns - 1) / kBfloatColumns;
        const size_t start = tiles.from * kTokenTile, end = lower(tokens.tokens, tiles.to * kTokenTile);
        size_t token = start;
        const auto add_tiles = [&](auto token_tiles, size_t height) {
            Tiles registers(bfloat_config(height));
            const size_t together = token_tiles.value * height;
            for (; token + together <= end; token += together)
                bfloat_tiles<token_tiles.value>(registers, tokens.tile(token, first), kTileTokens * tokens.columns, height,
                                                weights, steps, token == start, y + (token - start) * Panels * kPanel);
        };
        if constexpr (Panels <= kPanelsOfTile)
            if (token + 2 * kTileTokens <= end) add_tiles(std::integral_constant<int, 2>{}, kTileTokens);
        if (token + kTileTokens <= end) add_tiles(std::integral_constant<int, 1>{}, kTileTokens);
        if (token < end) add_tiles(std::integral_constant<int, 1>{}, end - token);
    }
};

inline void linear_bfloat_tiles(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks) {
    const BfloatTileProduct product = {{const_cast<void*>(packed), tokens, op.w.columns}};
    linear_of(product, op, tokens, team, tasks);
}

}  // namespace rowspan::ROWSPAN_ISA
