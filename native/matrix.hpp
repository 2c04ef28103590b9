// A weight matrix in the runtime layout of the native kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rowspan {

constexpr size_t kPanel = 16;      // rows computed side by side, one per lane
constexpr size_t kSuperBlock = 256;  // columns that share a scale of scales
constexpr size_t kBfloatColumns = 32;  // bfloat16 weights come in whole ones of so many columns: a tile of AMX has them

// So many columns or more, in whole ones of kBfloatColumns.
constexpr size_t whole_bfloats(size_t columns) {
    return (columns + kBfloatColumns - 1) / kBfloatColumns * kBfloatColumns;
}

enum class Codes : int { f32, f16, bf16, u8, u4, u6, t4 };

// Of a quantized code.
constexpr size_t code_bits(Codes kind) {
    return kind == Codes::u4 || kind == Codes::t4 ? 4 : kind == Codes::u6 ? 6 : 8;
}
constexpr size_t kTableSize = 16;

// rows × columns in panels of 16 rows, the last one filled up with zeros.
//
// Dense codes:
//   f32, f16: (panels, columns, 16).
//   bf16: (panels, columns / 2, 16, 2), the last columns up to a multiple of 32 zeros: pairs, as dot products take them.
// Quantized codes: value = scale · (code - zero) + minimum, one scale and minimum for `group` (16 or 32) columns.
//   u8: (panels, columns / 4, 16, 4) bytes: byte j of lane r is column 4 i + j of row r.
//   u4: (panels, columns / 8, 16, 4) bytes: low half of byte j of lane r is column 8 i + j, high half column 8 i + 4 + j.
//   u6: (panels, columns / 16, 3, 16, 4) bytes: of 16 columns the lower four bits of the first 8, and of the last 8, as u4;
//     then the upper two: those of column 16 i + 4 k + j are bits 2 k and 2 k + 1 of byte j of lane r.
//   t4: as u4, but a code stands for the byte in its place of the matrix's table, and that byte for a code of u8.
// That is the order in which VNNI (and AMX) read four columns of sixteen rows at once.
//
// scale and minimum are float16 (panels, columns / group, 16); or, with `sub_scales`, products: scales and minima float16
// (panels, columns / 256, 16), one per 256 columns, times sub_scales and sub_minima int8 (panels, columns / group, 16).
// All products are exact in float32. minima (and sub_minima) null: zero. Or scales are null, and powers of two:
// 2^(exponent - 128), exponents (panels, columns / group, 16); or half of an E4M3 without a sign, e4m3 (panels, columns /
// group, 16). sub_scales, too, may be null, and odd numbers 2 n + 1: odd_factors (panels, columns / group / 2, 16), each n 4
// bits, that of the first of two groups in the low half. row_scales (panels, 16) are factors of a row's whole product;
// null: all 1.
struct Matrix {
    Codes kind;
    const void* codes;
    const uint16_t* scales;
    const uint8_t* exponents;
    const uint16_t* minima;
    const int8_t* sub_scales;
    const int8_t* sub_minima;
    const uint8_t* table;  // of t4, kTableSize bytes; else null
    size_t rows, columns, group;
    int zero;
    const uint8_t* e4m3 = nullptr;
    const uint8_t* odd_factors = nullptr;
    const float* row_scales = nullptr;

    bool has_sub_scales() const { return sub_scales || odd_factors; }
    size_t panels() const { return (rows + kPanel - 1) / kPanel; }
};

// Bytes of a panel's codes.
constexpr size_t panel_bytes(Codes kind, size_t columns) {
    switch (kind) {
        case Codes::f32: return columns * kPanel * sizeof(float);
        case Codes::f16: return columns * kPanel * sizeof(uint16_t);
        case Codes::bf16: return whole_bfloats(columns) * kPanel * sizeof(uint16_t);
        default: return columns * kPanel * code_bits(kind) / 8;
    }
}

// Neighbouring panels of a matrix, from some panel on, as a matrix of so many rows.
inline Matrix panels_of(const Matrix& w, size_t first, size_t rows) {
    const size_t lanes = first * kPanel, groups = lanes * (w.columns / w.group);
    const size_t factors = w.has_sub_scales() ? lanes * (w.columns / kSuperBlock) : groups;
    const auto from = [](auto* array, size_t at) { return array ? array + at : nullptr; };
    Matrix part = w;
    part.codes = static_cast<const char*>(w.codes) + first * panel_bytes(w.kind, w.columns);
    part.scales = from(w.scales, factors);
    part.exponents = from(w.exponents, factors);
    part.minima = from(w.minima, factors);
    part.sub_scales = from(w.sub_scales, groups);
    part.sub_minima = from(w.sub_minima, groups);
    part.e4m3 = from(w.e4m3, groups);
    part.odd_factors = from(w.odd_factors, groups / 2);
    part.row_scales = from(w.row_scales, lanes);
    part.rows = rows;
    return part;
}

// One of a matrix's panels.
struct Panel {
    const Matrix* of;
    size_t index;
    size_t next;  // to be read in its place

    const uint16_t* bfloats(size_t column) const {  // column: even
        return static_cast<const uint16_t*>(of->codes) + (index * whole_bfloats(of->columns) + column) * kPanel;
    }
};

}  // namespace rowspan
