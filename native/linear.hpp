// Products of tokens and weights, and what becomes of them (`Linear`): how the work is cut, whatever they are made of.
#pragma once

#include "kernels.hpp"
#include "linear_float.hpp"
#include "linear_int8.hpp"
#include "small_ops.hpp"

namespace rowspan::ROWSPAN_ISA {

// Tokens whose activations stay in the second-level cache while the panels of a thread pass by.
constexpr size_t kTokenBlock = 256;
constexpr size_t kBlockTiles = kTokenBlock / kTokenTile;

// Some tiles of tokens.
struct Stretch {
    Range tiles;
    size_t first, count;  // tokens

    Stretch(Range of, size_t tokens)
        : tiles(of), first(of.from * kTokenTile), count(lower(tokens, of.to * kTokenTile) - first) {}
};

// Write value(token of the stretch, row of the panel, loading) where they belong; loading(from) reads as many of a row's
// elements from memory as there are.
template <typename Value>
inline void put(const Linear& op, const Stretch& stretch, size_t panel, Value value) {
    const size_t row = panel * kPanel, rows = lower(kPanel, op.w.rows - row);
    for (size_t t = 0; t < stretch.count; ++t) {
        const size_t at = (stretch.first + t) * op.stride + row;
        size_t r = 0;
        for (; r + Vec::width <= rows; r += Vec::width)
            value(t, r, at + r, [](const float* from) { return Vec::load(from); }).store(op.y + at + r);
        if (const size_t rest = rows - r)
            store_part(value(t, r, at + r, [=](const float* from) { return load_part(from, rest); }), op.y + at + r, rest);
    }
}

// Lines of the output come from the third cache or memory before they are written: 10 % of a prompt's products.
inline void fetch_output(const Linear& op, const Stretch& stretch, size_t panel) {
    if (stretch.count <= kTokenTile) return;
    for (size_t t = 0; t < stretch.count; ++t)
        __builtin_prefetch(op.y + (stretch.first + t) * op.stride + panel * kPanel, 1, 2);
}

// y (stretch, Panels · 16) = tokens · panels.
template <size_t Panels, typename Product>
inline void multiply(const Product& product, size_t columns, const Stretch& stretch, const Panel (&panels)[Panels],
                     float* y) {
    for (size_t i = 0; i < stretch.count * Panels * kPanel; ++i) y[i] = 0.0f;
    const size_t width = strip_width(columns);
    for (size_t column = 0; column < columns; column += width)
        product.add(panels, column, lower(width, columns - column), stretch.tiles, y);
}

// Panels that are computed side by side, and those that will then be, each in one's place: memory is asked for them.
template <size_t Panels>
struct Indices {
    size_t now[Panels], next[Panels];
};

// Some rows' products, times their scales.
inline Vec scaled(Vec product, const Matrix& w, size_t row) {
    return w.row_scales ? product * Vec::load(w.row_scales + row) : product;
}

// Product + bias + residual.
template <typename Product>
struct Sums {
    const Product& product;
    const Linear& op;

    static constexpr size_t together(size_t panels) { return panels; }

    template <size_t Panels>
    void compute(const Stretch& stretch, const Indices<Panels>& indices) const {
        alignas(64) float y[(Panels > kPanelsOfTile ? 1 : kTokenBlock) * Panels * kPanel];
        Panel panels[Panels];
        for (size_t p = 0; p < Panels; ++p) {
            panels[p] = {&op.w, indices.now[p], indices.next[p]};
            fetch_output(op, stretch, indices.now[p]);
        }
        multiply(product, op.w.columns, stretch, panels, y);
        for (size_t p = 0; p < Panels; ++p) {
            put(op, stretch, indices.now[p], [&](size_t t, size_t r, size_t at, auto loading) {
                const size_t row = indices.now[p] * kPanel + r;
                Vec value = scaled(Vec::load(y + (t * Panels + p) * kPanel + r), op.w, row);
                if (op.bias) value = value + loading(op.bias + row);
                return op.residual ? value + loading(op.residual + at) : value;
            });
        }
    }
};

// activation(product + bias) · (the other matrix's product + its bias).
template <typename Product>
struct Gated {
    const Product& product;
    const Linear& op;

    static constexpr size_t together(size_t panels) { return panels > 1 ? panels / 2 : 1; }

    template <size_t Pairs>
    void compute(const Stretch& stretch, const Indices<Pairs>& indices) const {
        alignas(64) float y[(Pairs > together(kPanelsOfTile) ? 1 : kTokenBlock) * 2 * Pairs * kPanel];
        Panel gates[Pairs], ups[Pairs], both[2 * Pairs];
        for (size_t p = 0; p < Pairs; ++p) {
            gates[p] = both[p] = {&op.w, indices.now[p], indices.next[p]};
            ups[p] = both[Pairs + p] = {op.up, indices.now[p], indices.next[p]};
            fetch_output(op, stretch, indices.now[p]);
        }
        const bool apart = 2 * Pairs > kPanelsOfTile && stretch.count > 1;  // so many have no room side by side
        const size_t width = apart ? Pairs * kPanel : 2 * Pairs * kPanel;
        const size_t to_up = apart ? stretch.count * width : Pairs * kPanel;
        if (apart) {
            multiply(product, op.w.columns, stretch, gates, y);
            multiply(product, op.w.columns, stretch, ups, y + to_up);
        } else {
            multiply(product, op.w.columns, stretch, both, y);
        }
        with_activation(op.activation, [&](auto activation) {
            for (size_t p = 0; p < Pairs; ++p) {
                put(op, stretch, indices.now[p], [&](size_t t, size_t r, size_t, auto loading) {
                    const float* at = y + t * width + p * kPanel + r;
                    const size_t row = indices.now[p] * kPanel + r;
                    Vec gate = scaled(Vec::load(at), op.w, row), up = scaled(Vec::load(at + to_up), *op.up, row);
                    if (op.bias) gate = gate + loading(op.bias + row);
                    if (op.up_bias) up = up + loading(op.up_bias + row);
                    return activation.gated(gate, up);
                });
            }
        });
    }
};

// Few tokens: the weights are read once, as fast as memory gives them. Some neighbouring panels are read in as many
// streams as are computed side by side, each from beginning to end, and then the following ones.
template <size_t Streams, typename Work>
inline void stream_panels(const Work& work, const Stretch& tokens, Range panels, Range following) {
    const auto length = [](Range of) { return (of.to - of.from) / Streams; };
    const auto place = [&](Range of, size_t stream, size_t i) { return of.from + stream * length(of) + i; };
    for (size_t i = 0; i < length(panels); ++i) {
        Indices<Streams> indices;
        const bool last = i + 1 == length(panels);
        for (size_t s = 0; s < Streams; ++s) {
            indices.now[s] = place(panels, s, i);
            indices.next[s] = last ? place(following, s, 0) : indices.now[s] + 1;
        }
        work.compute(tokens, indices);
    }
    for (size_t panel = panels.from + Streams * length(panels); panel < panels.to; ++panel)
        work.compute(tokens, Indices<1>{{panel}, {panel + 1}});
}

// A thread's share of the panels is several tasks, of streams not too short, and none of them with a panel left over, which
// would be multiplied alone.
template <typename Work>
inline void share_panels(const Work& work, size_t tokens, const Team& team, Tasks& tasks) {
    constexpr size_t kStreams = Work::together(kPanelsOfTile);
    const size_t panels = work.op.w.panels(), most = panels / team.count / (2 * kStreams);
    const size_t count = team.count * (most ? lower(8, most) : 1), wholes = (panels + kStreams - 1) / kStreams;
    const Stretch all({0, token_tiles(tokens)}, tokens);
    const auto border = [&](size_t task) { return lower(panels, wholes * task / count * kStreams); };
    tasks.run(team, count, [&](size_t task) {
        stream_panels<kStreams>(work, all, {border(task), border(task + 1)}, {border(task + 1), border(task + 2)});
    });
}

// Many tokens: they are computed in blocks, each with a few neighbouring panels at a time, whose weights stay in the
// first cache.
template <typename Work>
inline void block_panels(const Work& work, size_t tokens, const Team& team, Tasks& tasks) {
    constexpr size_t kNeighbours = Work::together(kPanelsOfTile);
    const size_t tiles = token_tiles(tokens), blocks = (tiles + kBlockTiles - 1) / kBlockTiles;
    const size_t panels = work.op.w.panels(), per_block = (panels + kNeighbours - 1) / kNeighbours;
    tasks.run(team, blocks * per_block, [&](size_t task) {
        const size_t block = task / per_block, panel = task % per_block * kNeighbours;
        const Stretch stretch({block * kBlockTiles, lower(tiles, (block + 1) * kBlockTiles)}, tokens);
        if (panel + kNeighbours <= panels) {
            Indices<kNeighbours> neighbours;
            for (size_t p = 0; p < kNeighbours; ++p) {
                neighbours.now[p] = panel + p;
                neighbours.next[p] = panel + kNeighbours + p;
            }
            work.compute(stretch, neighbours);
        } else {
            work.compute(stretch, Indices<1>{{panel}, {panel + 1}});
        }
    });
}

template <typename Work>
inline void any_panels(const Work& work, size_t tokens, const Team& team, Tasks& tasks) {
    if (tokens > kTokenBlock)
        block_panels(work, tokens, team, tasks);
    else if (tokens > 1)
        share_panels(work, tokens, team, tasks);
    else if (tokens == 1)  // asking for tasks, and short streams, would cost 3 % of decode
        stream_panels<Work::together(kPanelsOfOne)>(work, Stretch({0, 1}, 1), team.share(work.op.w.panels()), {});
}

// run(what is to become of the product).
template <typename Product, typename Run>
inline void with_output(const Product& product, const Linear& op, Run run) {
    op.up ? run(Gated<Product>{product, op}) : run(Sums<Product>{product, op});
}

template <typename Product>
inline void linear_of(const Product& product, const Linear& op, size_t tokens, const Team& team, Tasks& tasks) {
    with_output(product, op, [&](const auto& work) { any_panels(work, tokens, team, tasks); });
}

inline void linear_float(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks) {
    linear_of(FloatProduct(packed, tokens, op.w.columns), op, tokens, team, tasks);
}

// run(the format of a quantized matrix). Those that there are schemes for.
template <typename Run>
inline void with_format(const Matrix& w, Run run) {
    if (w.kind == Codes::u8) {
        run(Format<Codes::u8, true, false, 32>());
    } else if (w.kind == Codes::t4) {
        w.group == 32 ? run(Format<Codes::t4, true, false, 32>()) : run(Format<Codes::t4, true, false, 16>());
    } else if (w.group == 32) {
        if (w.kind == Codes::u4)
            w.minima ? run(Format<Codes::u4, false, true, 32>()) : run(Format<Codes::u4, false, false, 32>());
        else
            w.minima ? run(Format<Codes::u6, false, true, 32>()) : run(Format<Codes::u6, false, false, 32>());
    } else {
        if (w.kind == Codes::u4)
            w.minima ? run(Format<Codes::u4, false, true, 16>()) : run(Format<Codes::u4, false, false, 16>());
        else
            run(Format<Codes::u6, false, false, 16>());
    }
}

inline void linear_int8(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks) {
    with_format(op.w, [&](auto format) {
        linear_of(Int8Product<decltype(format)>(packed, tokens, op.w), op, tokens, team, tasks);
    });
}

}  // namespace rowspan::ROWSPAN_ISA
