// A stretch of columns of a few neighbouring panels of weights, as the products over it need it: float scales and minima,
// worked out once for all tokens.
#pragma once

#include <unistd.h>

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

// Whether the first-level cache has room for two strips of bytes, the one at work and the next.
inline bool holds_two_strips() {
    static const bool holds =
        sysconf(_SC_LEVEL1_DCACHE_SIZE) >= static_cast<long>(2 * kPanelsOfTile * kPanel * kStripColumns);
    return holds;
}

// Bytes between a prefetch of weights and its load: they cross a page's border, where the processor's own prefetching ends.
// Products of several tokens move on slowly, but memory is asked for while one tile of them passes by: 4096 hide its
// latency, 1024 do not (16 tokens from memory: 1.3 times the rate).
template <size_t Tokens>
constexpr size_t kAhead = Tokens == 1 ? 1024 : 4096;

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

// Where a strip begins in a panel of a matrix.
struct Place {
    size_t panel, column;
};

// The scales, or the minima, of a matrix: one of halves, exponents and e4m3, and subs, odd_factors or neither.
struct Factors {
    const uint16_t* halves;
    const int8_t* subs;
    const uint8_t *exponents = nullptr, *e4m3 = nullptr, *odd_factors = nullptr;
    size_t group, n_groups, n_spans;

    static Factors scales_of(const Matrix& w) {
        Factors scales(w, w.scales, w.sub_scales);
        scales.exponents = w.exponents;
        scales.e4m3 = w.e4m3;
        scales.odd_factors = w.odd_factors;
        return scales;
    }
    static Factors minima_of(const Matrix& w) { return Factors(w, w.minima, w.sub_minima); }

    // Those of `count` groups from a place on, in float32, to out (count, 16); memory is asked for as many of the next one.
    void load(Place at, size_t count, Place next, float (*out)[kPanel]) const {
        if (exponents) return load_bytes(exponents, at, count, next, out, Vec::powers);
        if (e4m3) return load_bytes(e4m3, at, count, next, out, Vec::halved_e4m3);
        if (odd_factors) return load_odd(at, count, next, out);
        const ptrdiff_t half_ahead = half(next, 0) - half(at, 0), sub_ahead = sub(next, 0) - sub(at, 0);
        for (size_t g = 0; g < count; ++g) {
            const uint16_t* const halves_of_group = half(at, g);
            const int8_t* const subs_of_group = sub(at, g);
            __builtin_prefetch(halves_of_group + half_ahead);
            if (subs) __builtin_prefetch(subs_of_group + sub_ahead);
            for (size_t i = 0; i < kPanel; i += Vec::width) {
                Vec factor = Vec::halves(halves_of_group + i);
                if (subs) factor = factor * Vec::codes(subs_of_group + i);
                factor.store(out[g] + i);
            }
        }
    }

  private:
    Factors(const Matrix& w, const uint16_t* of_spans, const int8_t* of_groups)
        : halves(of_spans),
          subs(of_groups),
          group(w.group),
          n_groups(w.columns / w.group),
          n_spans(w.has_sub_scales() ? w.columns / kSuperBlock : n_groups) {}

    template <typename Read>
    void load_bytes(const uint8_t* bytes, Place at, size_t count, Place next, float (*out)[kPanel], Read read) const {
        const uint8_t *const first = bytes + (at.panel * n_groups + at.column / group) * kPanel,
                      *const ahead = bytes + (next.panel * n_groups + next.column / group) * kPanel;
        for (size_t g = 0; g < count; ++g) {
            __builtin_prefetch(ahead + g * kPanel);
            for (size_t i = 0; i < kPanel; i += Vec::width) read(first + g * kPanel + i).store(out[g] + i);
        }
    }
    void load_odd(Place at, size_t count, Place next, float (*out)[kPanel]) const {
        const auto pair = [&](Place place, size_t g) {
            return odd_factors + (place.panel * (n_groups / 2) + (place.column / group + g) / 2) * kPanel;
        };
        const ptrdiff_t half_ahead = half(next, 0) - half(at, 0), pair_ahead = pair(next, 0) - pair(at, 0);
        for (size_t g = 0; g < count; ++g) {
            const uint8_t* const of_group = pair(at, g);
            const int shift = (at.column / group + g) % 2 * 4;
            __builtin_prefetch(half(at, g) + half_ahead);
            __builtin_prefetch(of_group + pair_ahead);
            for (size_t i = 0; i < kPanel; i += Vec::width)
                (Vec::halves(half(at, g) + i) * Vec::odd_numbers(of_group + i, shift)).store(out[g] + i);
        }
    }
    const uint16_t* half(Place at, size_t g) const {
        const size_t first = at.column / group + g;
        return halves + (at.panel * n_spans + (n_spans < n_groups ? first * group / kSuperBlock : first)) * kPanel;
    }
    const int8_t* sub(Place at, size_t g) const { return subs + (at.panel * n_groups + at.column / group + g) * kPanel; }
};

// What is read in a panel's place after these columns of it.
inline Place after(const Panel& panel, size_t columns) {
    return columns < panel.of->columns ? Place{panel.index, columns} : Place{panel.next, 0};
}

inline const uint8_t* codes_at(const Matrix& w, Place at) {
    return static_cast<const uint8_t*>(w.codes) + at.panel * code_bytes(w.kind, w.columns) + code_bytes(w.kind, at.column);
}

template <size_t Panels>
inline void load_strip(const Panel (&panels)[Panels], size_t first, size_t count, Strip<Panels>& strip) {
    strip.count = count;
    for (size_t p = 0; p < Panels; ++p) {
        const Matrix& w = *panels[p].of;
        const Place at = {panels[p].index, first}, next = after(panels[p], first + count);
        strip.codes[p] = codes_at(w, at);
        Factors::scales_of(w).load(at, count / w.group, next, strip.scales[p]);
        if (w.minima) Factors::minima_of(w).load(at, count / w.group, next, strip.minima[p]);
    }
}

}  // namespace rowspan::ROWSPAN_ISA
