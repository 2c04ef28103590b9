// A stretch of columns of a few neighbouring panels of weights, as the products over it need it: float scales and minima,
// worked out once for all tokens.
#pragma once

#include "matrix.hpp"
#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kStripColumns = 512;  // two panels of bytes fill half of a 32 KiB first-level cache
constexpr size_t kStripGroups = kStripColumns / 16;
constexpr size_t kPerPanel = kPanel / Vec::width;  // vectors that cover a panel

// Panels side by side: enough chains of sums for one token to hide their latency, and registers for a whole tile.
constexpr size_t kPanelsOfTile = Vec::width == 16 ? 2 : 1;
constexpr size_t kPanelsOfOne = 2 * kPanelsOfTile;

// Columns first … first + count - 1 of Panels panels of a quantized matrix: value = scale · code + minimum (the zero is
// part of it or not, as the reader asks).
template <size_t Panels>
struct Strip {
    size_t first, count;
    const uint8_t* codes[Panels];
    alignas(64) float scales[Panels][kStripGroups][kPanel];
    alignas(64) float minima[Panels][kStripGroups][kPanel];
};

inline size_t code_bytes(const Matrix& w, size_t columns) {
    switch (w.kind) {
        case Codes::f32: return columns * kPanel * 4;
        case Codes::f16:
        case Codes::bf16: return columns * kPanel * 2;
        case Codes::u8: return columns * kPanel;
        default: return columns * kPanel / 2;
    }
}

// One group's factors (16 of them, in float32), of scales or of minima.
inline void load_factors(const uint16_t* halves, const int8_t* subs, size_t columns, size_t group_size, size_t panel,
                         size_t group, float* out) {
    const size_t n_groups = columns / group_size;
    const size_t span = subs ? group * group_size / kSuperBlock : group;
    const size_t n_spans = subs ? columns / kSuperBlock : n_groups;
    for (size_t i = 0; i < kPanel; i += Vec::width) {
        Vec factor = Vec::halves(halves + (panel * n_spans + span) * kPanel + i);
        if (subs) factor = factor * Vec::codes(subs + (panel * n_groups + group) * kPanel + i);
        factor.store(out + i);
    }
}

template <size_t Panels>
inline void load_strip(const Matrix& w, size_t panel, size_t first, size_t count, Strip<Panels>& strip) {
    strip.first = first;
    strip.count = count;
    for (size_t p = 0; p < Panels; ++p) {
        strip.codes[p] = static_cast<const uint8_t*>(w.codes) + (panel + p) * code_bytes(w, w.columns) + code_bytes(w, first);
        for (size_t g = 0; g < count / w.group; ++g) {
            const size_t group = first / w.group + g;
            load_factors(w.scales, w.sub_scales, w.columns, w.group, panel + p, group, strip.scales[p][g]);
            if (w.minima)
                load_factors(w.minima, w.sub_minima, w.columns, w.group, panel + p, group, strip.minima[p][g]);
        }
    }
}

}  // namespace rowspan::ROWSPAN_ISA
