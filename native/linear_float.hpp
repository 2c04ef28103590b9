// Products of float32 activations and weights of any kind, exactly as in the file: a strip is unpacked to floats, then an
// output's lane adds up its columns in order, whatever the other tokens of the step.
#pragma once

#include "activations.hpp"
#include "codes.hpp"
#include "each.hpp"
#include "strip.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kFloatColumns = 256;  // columns unpacked at once: two panels of floats are 32 KiB

// Byte `index` of every lane, as a float.
inline Vec byte_of(Ints x, size_t index) {
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(8 * index));
#if defined(__AVX512F__)
    return Ints{_mm512_and_si512(_mm512_srl_epi32(x.v, shift), _mm512_set1_epi32(255))}.to_floats();
#else
    return Ints{_mm256_and_si256(_mm256_srl_epi32(x.v, shift), _mm256_set1_epi32(255))}.to_floats();
#endif
}

// Columns of a quantized panel → out (count, 16).
template <Codes kind>
inline void unpack_quantized(const Panel& panel, size_t first, size_t count, float* out) {
    constexpr size_t kColumns = 4 * kQuads<kind>;  // of a unit
    const Matrix& w = *panel.of;
    Strip<1> strip;
    load_strip({panel}, first, count, strip);
    const CodeTable<kind> table(w);
    const Vec zero = Vec::all(static_cast<float>(w.zero));
    for (size_t column = 0; column < count; column += kColumns) {
        const size_t g = column / w.group;
        for (size_t i = 0; i < kPerPanel; ++i) {
            Ints quads[kQuads<kind>];
            read_unit<kind>(strip.codes[0] + column / kColumns * kUnitBytes<kind> + i * Ints::width * 4, table, quads);
            const Vec scale = Vec::load(strip.scales[0][g] + i * Vec::width);
            const Vec minimum = w.minima ? Vec::load(strip.minima[0][g] + i * Vec::width) : Vec::zero();
            for (size_t j = 0; j < kColumns; ++j) {
                const Vec code = byte_of(quads[j / 4], j % 4);
                Vec::fma(code - zero, scale, minimum).store(out + (column + j) * kPanel + i * Vec::width);
            }
        }
    }
}

// Pairs of columns of bfloat16 → out (count, 16). An odd count's last pair, too, is a whole one: `out` has room for it.
inline void unpack_pairs(const uint16_t* pairs, size_t count, float* out) {
    for (size_t column = 0; column < count; column += 2, out += 2 * kPanel) {
        for (size_t i = 0; i < kPanel; i += Vec::width) {
            const Ints both = Ints::load(pairs + column * kPanel + 2 * i);
            both.first_bfloats().store(out + i);
            both.second_bfloats().store(out + kPanel + i);
        }
    }
}

inline void unpack_floats(const Panel& panel, size_t first, size_t count, float* out) {
    const Matrix& w = *panel.of;
    if (w.kind == Codes::u8) return unpack_quantized<Codes::u8>(panel, first, count, out);
    if (w.kind == Codes::u4) return unpack_quantized<Codes::u4>(panel, first, count, out);
    if (w.kind == Codes::u6) return unpack_quantized<Codes::u6>(panel, first, count, out);
    if (w.kind == Codes::t4) return unpack_quantized<Codes::t4>(panel, first, count, out);
    if (w.kind == Codes::bf16) return unpack_pairs(panel.bfloats(first), count, out);
    const size_t at = (panel.index * w.columns + first) * kPanel;
    for (size_t i = 0; i < count * kPanel; i += Vec::width) {
        const Vec values = w.kind == Codes::f32 ? Vec::load(static_cast<const float*>(w.codes) + at + i)
                                                : Vec::halves(static_cast<const uint16_t*>(w.codes) + at + i);
        values.store(out + i);
    }
}

// y (Tokens, Panels · 16) += x (count, Tokens) · weights (Panels of (count, 16)).
template <size_t Tokens, size_t Panels>
inline void float_product(const float* x, const float (*weights)[kFloatColumns * kPanel], size_t count, float* y) {
    constexpr size_t kVecs = Panels * kPerPanel;
    Vec totals[Tokens][kVecs];
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) totals[t][i] = Vec::load(y + (t * kVecs + i) * Vec::width);
    for (size_t column = 0; column < count; ++column) {
        Vec w[kVecs];
        for (size_t i = 0; i < kVecs; ++i)
            w[i] = Vec::load(weights[i / kPerPanel] + column * kPanel + i % kPerPanel * Vec::width);
#pragma GCC unroll 8
        for (size_t t = 0; t < Tokens; ++t) {
            const Vec a = Vec::all(x[column * Tokens + t]);
#pragma GCC unroll 8
            for (size_t i = 0; i < kVecs; ++i) totals[t][i] = Vec::fma(a, w[i], totals[t][i]);
        }
    }
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) totals[t][i].store(y + (t * kVecs + i) * Vec::width);
}

struct FloatProduct {
    const float* packed;
    size_t tokens, all_columns;

    FloatProduct(const void* from, size_t n_tokens, size_t columns)
        : packed(static_cast<const float*>(from)), tokens(n_tokens), all_columns(columns) {}

    template <size_t Panels>
    void add(const Panel (&panels)[Panels], size_t first, size_t count, Range tiles, float* y) const {
        alignas(64) float weights[Panels][kFloatColumns * kPanel];
        const size_t width = kPanel * Panels;
        for (size_t from = first; from < first + count; from += kFloatColumns) {
            const size_t columns = lower(kFloatColumns, first + count - from);
            for (size_t p = 0; p < Panels; ++p) unpack_floats(panels[p], from, columns, weights[p]);
            float* out = y;
            for (size_t tile = tiles.from; tile < tiles.to; ++tile) {
                const size_t height = tile_height(tokens, tile);
                const float* x = packed + tile * kTokenTile * all_columns + from * height;
                by_height<Panels>(height, x, weights, columns, out);
                out += height * width;
            }
        }
    }

  private:
    template <size_t Panels>
    static void by_height(size_t height, const float* x, const float (*weights)[kFloatColumns * kPanel], size_t columns,
                          float* y) {
        visit_block<(Panels > kPanelsOfTile ? 1 : kTokenTile)>(
            height, 0, [&](auto block, size_t) { float_product<block.rows, Panels>(x, weights, columns, y); });
    }
};

}  // namespace rowspan::ROWSPAN_ISA
