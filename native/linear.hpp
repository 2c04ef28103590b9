// y = x · W.T (+ bias, + residual): how the work is cut, for integer and for float products alike.
#pragma once

#include "linear_float.hpp"
#include "linear_int8.hpp"

namespace rowspan::ROWSPAN_ISA {

// Tokens whose activations stay in the second-level cache while the panels of a thread pass by.
constexpr size_t kTokenBlock = 256;
constexpr size_t kBlockTiles = kTokenBlock / kTokenTile;

// What becomes of a product: y (tokens, rows) = product + bias + residual; both may be null.
struct Output {
    const float* bias;
    const float* residual;
    float* y;
};

inline void put(const Output& out, const Matrix& w, size_t token, size_t panel, size_t panels, size_t tokens,
                const float* product) {
    const size_t row = panel * kPanel;
    const size_t rows = lower(panels * kPanel, w.rows - row);
    for (size_t t = 0; t < tokens; ++t) {
        const float* from = product + t * panels * kPanel;
        const size_t at = (token + t) * w.rows + row;
        for (size_t r = 0; r < rows; ++r) {
            float value = from[r];
            if (out.bias) value += out.bias[row + r];
            if (out.residual) value += out.residual[at + r];
            out.y[at + r] = value;
        }
    }
}

template <size_t Panels, typename Product>
inline void linear_panels(const Product& product, const Matrix& w, size_t tokens, Range tiles, size_t panel,
                          const Output& out) {
    const size_t first = tiles.from * kTokenTile, count = lower(tokens, tiles.to * kTokenTile) - first;
    alignas(64) float y[(Panels > kPanelsOfTile ? 1 : kTokenBlock) * Panels * kPanel];
    for (size_t i = 0; i < count * Panels * kPanel; ++i) y[i] = 0.0f;
    for (size_t column = 0; column < w.columns; column += kStripColumns)
        product.template add<Panels>(panel, column, lower(kStripColumns, w.columns - column), tiles, y);
    put(out, w, first, panel, Panels, count, y);
}

// A unit is one token block times a few panels.
template <typename Product>
inline void linear_units(const Product& product, const Matrix& w, size_t tokens, const Output& out, const Team& team) {
    const size_t tiles = token_tiles(tokens), blocks = (tiles + kBlockTiles - 1) / kBlockTiles;
    const size_t wide = tokens == 1 ? kPanelsOfOne : kPanelsOfTile;
    const size_t panels = w.panels(), per_block = (panels + wide - 1) / wide;
    const Range mine = team.share(blocks * per_block);
    for (size_t unit = mine.from; unit < mine.to; ++unit) {
        const size_t block = unit / per_block;
        const Range part = {block * kBlockTiles, lower(tiles, (block + 1) * kBlockTiles)};
        size_t panel = unit % per_block * wide;
        const size_t end = lower(panels, panel + wide);
        if (wide == kPanelsOfOne && end - panel == kPanelsOfOne) {
            linear_panels<kPanelsOfOne>(product, w, tokens, part, panel, out);
            continue;
        }
        for (; panel + kPanelsOfTile <= end; panel += kPanelsOfTile)
            linear_panels<kPanelsOfTile>(product, w, tokens, part, panel, out);
        if (kPanelsOfTile > 1 && panel < end) linear_panels<1>(product, w, tokens, part, panel, out);
    }
}

inline void linear_float(const void* packed, size_t tokens, const Matrix& w, const float* bias, const float* residual,
                         float* y, const Team& team) {
    linear_units(FloatProduct(packed, tokens, w), w, tokens, {bias, residual, y}, team);
}

// For quantized matrices.
inline void linear_int8(const void* packed, size_t tokens, const Matrix& w, const float* bias, const float* residual,
                        float* y, const Team& team) {
    const Output out = {bias, residual, y};
    const bool four = w.kind == Codes::u4, wide = w.zero == 128;
    const auto run = [&](auto format) {
        linear_units(Int8Product<decltype(format)>(packed, tokens, w), w, tokens, out, team);
    };
    if (w.group == 32) {
        if (four)
            w.minima ? run(Format<true, false, true, 32>()) : run(Format<true, false, false, 32>());
        else if (w.minima)
            run(Format<false, false, true, 32>());
        else
            wide ? run(Format<false, true, false, 32>()) : run(Format<false, false, false, 32>());
    } else {
        if (four)
            w.minima ? run(Format<true, false, true, 16>()) : run(Format<true, false, false, 16>());
        else
            run(Format<false, false, false, 16>());
    }
}

}  // namespace rowspan::ROWSPAN_ISA
