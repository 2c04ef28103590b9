// From rows of blocks, as GGUF files have them, to the runtime layout, `Matrix`; and from one row to float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "matrix.hpp"

namespace rowspan {

// Rows of whole blocks; each starts `stride` bytes after the one before.
struct BlockRows {
    const uint8_t* data;
    size_t stride, rows, columns;
};

// The arrays of a `Matrix` to be written; null those that its scheme does not have.
struct PackedArrays {
    void* codes;
    uint16_t* scales;
    uint8_t* exponents;
    uint16_t* minima;
    int8_t* sub_scales;
    int8_t* sub_minima;
    uint8_t* e4m3;
    uint8_t* odd_factors;
};

// How many bytes of codes, and how many numbers, those arrays take.
struct PackedSizes {
    size_t codes, scales, exponents, minima, sub_scales, sub_minima, e4m3, odd_factors;
};

// What can be done with the blocks of one scheme.
struct BlockFormat {
    std::string_view scheme;  // its name in src/rowspan/quant/scheme.py
    size_t block_columns, block_bytes;

    PackedSizes (*sizes)(size_t rows, size_t columns);
    // Fill panels first … last - 1 of a matrix.
    void (*pack)(const BlockRows& from, const PackedArrays& to, size_t first_panel, size_t last_panel);
    // Write the elements of a row, bit for bit those of ggml's reference.
    void (*dequantize_row)(const uint8_t* row, size_t columns, float* out);

    // Throws std::invalid_argument when `row_bytes` are not whole blocks.
    size_t columns(size_t row_bytes) const;
};

// Throws std::invalid_argument when no scheme of that name is stored in blocks.
const BlockFormat& block_format(std::string_view scheme);

}  // namespace rowspan
