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

// product (tokens, stride) of one panel, for tokens from `token` on.
inline void put(const Output& out, const Matrix& w, size_t token, size_t tokens, size_t panel, const float* product,
                size_t stride) {
    const size_t row = panel * kPanel;
    const size_t rows = lower(kPanel, w.rows - row);
    for (size_t t = 0; t < tokens; ++t) {
        const float* from = product + t * stride;
        const size_t at = (token + t) * w.rows + row;
        if (rows == kPanel) {
            for (size_t r = 0; r < kPanel; r += Vec::width) {
                Vec value = Vec::load(from + r);
                if (out.bias) value = value + Vec::load(out.bias + row + r);
                if (out.residual) value = value + Vec::load(out.residual + at + r);
                value.store(out.y + at + r);
            }
            continue;
        }
        for (size_t r = 0; r < rows; ++r) {
            float value = from[r];
            if (out.bias) value += out.bias[row + r];
            if (out.residual) value += out.residual[at + r];
            out.y[at + r] = value;
        }
    }
}

template <size_t Panels, typename Product>
inline void linear_panels(const Product& product, const Matrix& w, size_t tokens, Range tiles,
                          const size_t (&panels)[Panels], const Output& out) {
    const size_t first = tiles.from * kTokenTile, count = lower(tokens, tiles.to * kTokenTile) - first;
    alignas(64) float y[(Panels > kPanelsOfTile ? 1 : kTokenBlock) * Panels * kPanel];
    for (size_t i = 0; i < count * Panels * kPanel; ++i) y[i] = 0.0f;
    // Lines of the output come from the third cache or memory before they are written: 10 % of a prompt's products.
    if (count > kTokenTile) {
        for (size_t t = 0; t < count; ++t) {
            for (size_t p = 0; p < Panels; ++p)
                __builtin_prefetch(out.y + (first + t) * w.rows + panels[p] * kPanel, 1, 2);
        }
    }
    for (size_t column = 0; column < w.columns; column += kStripColumns)
        product.add(panels, column, lower(kStripColumns, w.columns - column), tiles, y);
    for (size_t p = 0; p < Panels; ++p) put(out, w, first, count, panels[p], y + p * kPanel, Panels * kPanel);
}

// Few tokens: the weights are read once, as fast as memory gives them. A thread's panels are read in as many streams as
// it computes side by side, each from beginning to end: so what is prefetched is always what comes next.
template <size_t Streams, typename Product>
inline void stream_panels(const Product& product, const Matrix& w, size_t tokens, Range mine, const Output& out) {
    const size_t length = (mine.to - mine.from) / Streams;
    const Range tiles = {0, token_tiles(tokens)};
    for (size_t i = 0; i < length; ++i) {
        size_t panels[Streams];
        for (size_t s = 0; s < Streams; ++s) panels[s] = mine.from + s * length + i;
        linear_panels<Streams>(product, w, tokens, tiles, panels, out);
    }
    for (size_t panel = mine.from + Streams * length; panel < mine.to; ++panel)
        linear_panels<1>(product, w, tokens, tiles, {panel}, out);
}

// Many tokens: they are computed in blocks, each with a few neighbouring panels at a time, whose weights stay in the
// first cache. A unit of work is one block times those panels.
template <typename Product>
inline void block_panels(const Product& product, const Matrix& w, size_t tokens, const Output& out, const Team& team) {
    const size_t tiles = token_tiles(tokens), blocks = (tiles + kBlockTiles - 1) / kBlockTiles;
    const size_t panels = w.panels(), per_block = (panels + kPanelsOfTile - 1) / kPanelsOfTile;
    const Range mine = team.share(blocks * per_block);
    for (size_t unit = mine.from; unit < mine.to; ++unit) {
        const size_t block = unit / per_block, panel = unit % per_block * kPanelsOfTile;
        const Range part = {block * kBlockTiles, lower(tiles, (block + 1) * kBlockTiles)};
        if (panel + kPanelsOfTile <= panels) {
            size_t neighbours[kPanelsOfTile];
            for (size_t p = 0; p < kPanelsOfTile; ++p) neighbours[p] = panel + p;
            linear_panels<kPanelsOfTile>(product, w, tokens, part, neighbours, out);
        } else {
            linear_panels<1>(product, w, tokens, part, {panel}, out);
        }
    }
}

template <typename Product>
inline void linear_of(const Product& product, const Matrix& w, size_t tokens, const Output& out, const Team& team) {
    if (tokens > kTokenBlock)
        block_panels(product, w, tokens, out, team);
    else if (tokens > 1)
        stream_panels<kPanelsOfTile>(product, w, tokens, team.share(w.panels()), out);
    else if (tokens == 1)
        stream_panels<kPanelsOfOne>(product, w, tokens, team.share(w.panels()), out);
}

inline void linear_float(const void* packed, size_t tokens, const Matrix& w, const float* bias, const float* residual,
                         float* y, const Team& team) {
    linear_of(FloatProduct(packed, tokens, w), w, tokens, {bias, residual, y}, team);
}

// run(the format of a quantized matrix).
template <typename Run>
inline void with_format(const Matrix& w, Run run) {
    const bool four = w.kind == Codes::u4, wide = w.zero == 128;
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

inline void linear_int8(const void* packed, size_t tokens, const Matrix& w, const float* bias, const float* residual,
                        float* y, const Team& team) {
    with_format(w, [&](auto format) {
        linear_of(Int8Product<decltype(format)>(packed, tokens, w), w, tokens, {bias, residual, y}, team);
    });
}

}  // namespace rowspan::ROWSPAN_ISA
