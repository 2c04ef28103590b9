// Products of int8 activations and quantized weights in the tile registers of AMX, for more tokens than one tile of
// VNNI's: the same integers, scaled and added up in the same order, so the same bits.
#pragma once

#include "kernels.hpp"
#include "linear.hpp"
#include "tiles.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kLower = kTileTokens / kTokenTile;  // so many of AVX-512's tiles are as high as one here
static_assert(kPanelsOfTile == 2 && kTileTokens % kTokenTile == 0 && kBlockTiles % kLower == 0);
constexpr size_t kFewTokens = 8;  // that are left to VNNI's products

// AVX-512's tiles that these are.
inline Range lower_tiles(Range tiles, size_t tokens) {
    return {tiles.from * kLower, lower(tiles.to * kLower, token_tiles(tokens))};
}

inline size_t tile_tokens(size_t tokens) { return (tokens + kTileTokens - 1) / kTileTokens * kTileTokens; }

// Packed tokens are those of activations.hpp but for the height of a tile, up to which the last one is filled with zeros,
// and that codes are (columns / 32, 16, 32).
inline size_t tile_tokens_bytes(size_t tokens, size_t columns) {
    if (tokens <= kFewTokens) return avx512_kernels().int8.bytes(tokens, columns);
    return Int8Tokens::bytes(tile_tokens(tokens), columns);
}

inline void pack_tiles(const float* x, size_t tokens, size_t columns, void* packed, Range tiles) {
    if (tokens <= kFewTokens) return avx512_kernels().int8.pack(x, tokens, columns, packed, lower_tiles(tiles, tokens));
    const Int8Tokens all(packed, tile_tokens(tokens), columns);
    for (size_t first = tiles.from * kTileTokens; first < tiles.to * kTileTokens; first += kTileTokens) {
        for (size_t t = 0; t < kTileTokens; ++t) {
            for (size_t column = 0; column < columns; column += kScaled) {
                const Int8Tile to = all.part(first, kTileTokens, column);
                const Rounded group = first + t < tokens ? rounded(x + (first + t) * columns + column) : Rounded{};
                __builtin_memcpy(to.codes + t * kScaled, group.codes, kScaled);
                to.scales[t] = group.scale;
                for (size_t half = 0; half < kScaled / kSummed; ++half)
                    to.sums[half * kTileTokens + t] = group.sums[half];
            }
        }
    }
}

// Accumulators 0 and 1, one to a panel; tokens 4; weights 6 and 7.
template <size_t Group>
inline TileConfig tile_config() {
    TileConfig config;
    config.row_bytes[4] = Group;
    config.rows[6] = config.rows[7] = Group / 4;
    return config;
}

template <size_t Panels>
struct TileSums {
    alignas(64) int32_t of[Panels][kTileTokens][kPanel];
};

template <typename F, size_t Panels>
inline void multiply_group(Tiles& registers, const Int8Tile& tile, const Strip<Panels>& strip, size_t g,
                           TileSums<Panels>& sums) {
    constexpr size_t kCodeRow = kPanel * 4, kSumRow = kPanel * sizeof(int32_t);
    const size_t column = g * F::group, at = column / kScaled * kScaled * kTileTokens + column % kScaled;
    registers.load<4>(tile.codes + at, kScaled);
    registers.load<6>(strip.codes[0] + column * kPanel, kCodeRow);
    registers.zero<0>();
    registers.multiply<0, 4, 6>();
    if constexpr (Panels == 2) {
        registers.load<7>(strip.codes[1] + column * kPanel, kCodeRow);
        registers.zero<1>();
        registers.multiply<1, 4, 7>();
    }
    registers.store<0>(sums.of[0], kSumRow);
    if constexpr (Panels == 2) registers.store<1>(sums.of[1], kSumRow);
}

// y (count, Panels · 16) += the first `count` tokens of a tile · strip.
template <typename F, size_t Panels>
inline void tile_product(Tiles& registers, const Int8Tile& tile, size_t count, const Strip<Panels>& strip, int zero,
                         float* y) {
    const size_t groups = strip.count / F::group;
    GroupSums<F, kTileTokens> group_sums;
    group_sums.load(tile, kImplied<F::wide> - zero, groups);

    // A group is scaled, which takes longest, while the next one is multiplied: what a tile stores takes long to be read
    // again. More sums than these 4 KiB would share the low bits of their addresses, and wait for each other.
    TileSums<Panels> sums[2];
    static_assert(sizeof sums <= 4096);
    multiply_group<F>(registers, tile, strip, 0, sums[0]);
    for (size_t g = 0; g < groups; ++g) {
        if (g + 1 < groups) multiply_group<F>(registers, tile, strip, g + 1, sums[(g + 1) % 2]);
        Vec weight_scales[Panels], minima[Panels];
        for (size_t p = 0; p < Panels; ++p) {
            weight_scales[p] = Vec::load(strip.scales[p][g]);
            if constexpr (F::has_minima) minima[p] = Vec::load(strip.minima[p][g]);
        }
        const float* scales = tile.scales + g * F::group / kScaled * kTileTokens;
        for (size_t t = 0; t < count; ++t) {
            const Ints start = Ints::all(group_sums.starts[g * kTileTokens + t]);
            const Vec scale = Vec::all(scales[t]);
            for (size_t p = 0; p < Panels; ++p) {
                float* at = y + (t * Panels + p) * kPanel;
                const Ints sum = Ints::load(sums[g % 2].of[p][t]) + start;
                Vec total = Vec::fma(sum.to_floats(), weight_scales[p] * scale, Vec::load(at));
                if constexpr (F::has_minima)
                    total = Vec::fma(minima[p], Vec::all(group_sums.activations[g * kTileTokens + t]), total);
                total.store(at);
            }
        }
    }
}

// Narrow codes of a strip as bytes.
template <Codes kind, size_t Panels>
inline void widen(const CodeTable<kind>& table, Strip<Panels>& strip, uint8_t* bytes) {
    for (size_t p = 0; p < Panels; ++p) {
        uint8_t* to = bytes + p * kWidePanel;
        const uint8_t *at = strip.codes[p], *end = at + code_bytes(kind, strip.count);
        for (; at < end; at += kUnitBytes<kind>) {
            for (size_t line = 0; line < kUnitBytes<kind>; line += 64) __builtin_prefetch(at + line + kAhead<kTokenTile>);
            for (size_t i = 0; i < 64; i += Ints::width * 4) {
                Ints quads[kQuads<kind>];
                read_unit<kind>(at + i, table, quads);
                for (size_t q = 0; q < kQuads<kind>; ++q) quads[q].store(to + q * 64 + i);
            }
            to += kQuads<kind> * 64;
        }
        strip.codes[p] = bytes + p * kWidePanel;
    }
}

// Matrix · tokens for the driver in linear.hpp, which counts in tiles of kTokenTile.
template <typename F>
struct TileProduct {
    Int8Tokens tokens;
    size_t count;  // of tokens; there are more in whole tiles
    CodeTable<F::kind> table;
    int zero;
    Tiles& registers;

    TileProduct(const void* packed, size_t n_tokens, const Matrix& matrix, Tiles& configured)
        : tokens(const_cast<void*>(packed), tile_tokens(n_tokens), matrix.columns),
          count(n_tokens),
          table(matrix),
          zero(matrix.zero),
          registers(configured) {}

    template <size_t Panels>
    void add(const Panel (&panels)[Panels], size_t first, size_t columns, Range tiles, float* y) const {
        Strip<Panels> strip;
        load_strip(panels, first, columns, strip);
        alignas(64) uint8_t bytes[F::narrow ? Panels * kWidePanel : 64];
        if constexpr (F::narrow) widen<F::kind>(table, strip, bytes);
        const size_t end = lower(count, tiles.to * kTokenTile);
        for (size_t token = tiles.from * kTokenTile; token < end; token += kTileTokens) {
            const Int8Tile tile = tokens.part(token, kTileTokens, first);
            tile_product<F, Panels>(registers, tile, lower(kTileTokens, end - token), strip, zero, y);
            y += kTileTokens * Panels * kPanel;
        }
    }
};

inline void linear_tiles(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks) {
    if (tokens <= kFewTokens) return avx512_kernels().int8.linear(packed, tokens, op, team, tasks);
    const TileConfig config = op.w.group == 32 ? tile_config<32>() : tile_config<16>();
    Tiles registers(config);
    with_format(op.w, [&](auto format) {
        const TileProduct<decltype(format)> product(packed, tokens, op.w, registers);
        with_output(product, op, [&](const auto& work) { block_panels(work, tokens, team, tasks); });
    });
}

}  // namespace rowspan::ROWSPAN_ISA
