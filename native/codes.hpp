// The codes of quantized weights as dot products take them: bytes, four columns to a lane. See `Matrix`.
#pragma once

#include "dot.hpp"
#include "matrix.hpp"

namespace rowspan::ROWSPAN_ISA {

// Codes are read in units of so many times four columns, of so many bytes of a panel.
template <Codes kind>
constexpr size_t kQuads = kind == Codes::u4 || kind == Codes::t4 ? 2 : kind == Codes::u6 ? 4 : 1;
template <Codes kind>
constexpr size_t kUnitBytes = kQuads<kind> * 4 * kPanel * code_bits(kind) / 8;

// What a matrix's codes stand for: only those of t4 for something else than themselves.
template <Codes kind>
struct CodeTable {
    CodeTable() = default;
    explicit CodeTable(const Matrix&) {}
};

template <>
struct CodeTable<Codes::t4> {
    Ints bytes;
    explicit CodeTable(const Matrix& w) : bytes(Ints::sixteen(w.table)) {}
};

// One unit's, for as many rows as there are lanes; at: those rows' first bytes of it.
template <Codes kind>
ROWSPAN_INLINE void read_unit(const uint8_t* at, const CodeTable<kind>& table, Ints (&quads)[kQuads<kind>]) {
    constexpr size_t kVector = 4 * kPanel;  // bytes from one of a unit's vectors to the next
    if constexpr (kind == Codes::u8) {
        quads[0] = Ints::load(at);
    } else if constexpr (kind == Codes::u4) {
        const Ints both = Ints::load(at);
        quads[0] = both.low_halves();
        quads[1] = both.high_halves();
    } else if constexpr (kind == Codes::t4) {
        const Ints both = Ints::load(at);
        quads[0] = table.bytes.looked_up(both.low_halves());
        quads[1] = table.bytes.looked_up(both.high_halves());
    } else {
        static_assert(kind == Codes::u6);
        const Ints first = Ints::load(at), last = Ints::load(at + kVector), upper = Ints::load(at + 2 * kVector);
        quads[0] = first.low_halves() | upper.template upper_bits<0>();
        quads[1] = first.high_halves() | upper.template upper_bits<1>();
        quads[2] = last.low_halves() | upper.template upper_bits<2>();
        quads[3] = last.high_halves() | upper.template upper_bits<3>();
    }
}

}  // namespace rowspan::ROWSPAN_ISA
