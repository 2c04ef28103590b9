// A stretch of columns of a few neighbouring panels of weights, as the products over it need it: float scales and minima,
// worked out once for all tokens.
#pragma once

#include "matrix.hpp"
#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kStripColumns = 768;  // at most: two panels of bytes leave room in a first-level cache of 32 KiB
constexpr size_t kStripGroups = kStripColumns / 16;
// So many columns come in strips of about the same width: a narrow one takes as long to begin as any.
inline size_t strip_width(size_t columns) {
    constexpr size_t kWhole = 32;  // of weights', tokens' and bfloat16's groups
    const size_t strips = higher(1, (columns + kStripColumns - 1) / kStripColumns);
    const size_t wholes = (columns + kWhole - 1) / kWhole;
    return (wholes + strips - 1) / strips * kWhole;
}
constexpr size_t kPerPanel = kPanel / Vec::width;  // vectors that cover a panel

// Panels side by side for a tile of tokens, whose sums stay in registers over a whole strip, and for a lone token.
constexpr size_t kPanelsOfTile = Vec::width == 16 ? 2 : 1;
constexpr size_t kPanelsOfOne = 2 * kPanelsOfTile;

// Bytes between a prefetch of weights and its load: they cross a page's border, where the processor's own prefetching ends.
// Products of several tokens move on slowly, but memory is asked for while one tile of them passes by: 4096 hide its
// latency, 1024 do not (16 tokens from memory: 1.3 times the rate).
template <size_t Tokens>
constexpr size_t kAhead = Tokens == 1 ? 1024 : 4096;

// Bytes between a prefetch of scales and its load: a strip's worth, or two. Strips of a stream follow one another here as
// they do in the codes.
constexpr size_t kFactorsAhead = 1024;

// So many columns of some panels of a quantized matrix: value = scale · code + minimum (the zero is
// part of it or not, as the reader asks).
template <size_t Panels>
struct Strip {
    size_t count;
    const uint8_t* codes[Panels];
    alignas(64) float scales[Panels][kStripGroups][kPanel];
    alignas(64) float minima[Panels][kStripGroups][kPanel];
};

// Of so many columns of a panel.
constexpr size_t code_bytes(Codes kind, size_t columns) { return columns * kPanel * code_bits(kind) / 8; }

// The scales, or the minima, of a matrix.
struct Factors {
    const uint16_t* halves;
    const int8_t* subs;  // may be null
    size_t group, n_groups, n_spans;

    Factors(const Matrix& w, const uint16_t* of_spans, const int8_t* of_groups)
        : halves(of_spans),
          subs(of_groups),
          group(w.group),
          n_groups(w.columns / w.group),
          n_spans(of_groups ? w.columns / kSuperBlock : n_groups) {}

    // Those of `count` groups of a panel, in float32, to out (count, 16).
    void load(size_t panel, size_t first, size_t count, float (*out)[kPanel]) const {
        for (size_t g = 0; g < count; ++g) {
            const size_t span = subs ? (first + g) * group / kSuperBlock : first + g;
            const uint16_t* half = halves + (panel * n_spans + span) * kPanel;
            const int8_t* sub = subs + (panel * n_groups + first + g) * kPanel;
            __builtin_prefetch(reinterpret_cast<const char*>(half) + kFactorsAhead);
            if (subs) __builtin_prefetch(sub + kFactorsAhead);
            for (size_t i = 0; i < kPanel; i += Vec::width) {
                Vec factor = Vec::halves(half + i);
                if (subs) factor = factor * Vec::codes(sub + i);
                factor.store(out[g] + i);
            }
        }
    }
};

template <size_t Panels>
inline void load_strip(const Panel (&panels)[Panels], size_t first, size_t count, Strip<Panels>& strip) {
    strip.count = count;
    for (size_t p = 0; p < Panels; ++p) {
        const auto [of, index] = panels[p];
        const Matrix& w = *of;
        const uint8_t* codes = static_cast<const uint8_t*>(w.codes) + index * code_bytes(w.kind, w.columns);
        strip.codes[p] = codes + code_bytes(w.kind, first);
        const size_t group = first / w.group, groups = count / w.group;
        Factors(w, w.scales, w.sub_scales).load(index, group, groups, strip.scales[p]);
        if (w.minima) Factors(w, w.minima, w.sub_minima).load(index, group, groups, strip.minima[p]);
    }
}

}  // namespace rowspan::ROWSPAN_ISA
