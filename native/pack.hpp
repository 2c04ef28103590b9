// From rows of a GGUF file's blocks to the runtime layout, `Matrix`; and from one row to float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.hpp"

namespace rowspan {

// Rows of whole blocks of a type, named by its number in GGUF files; each starts `stride` bytes after the one before.
struct BlockRows {
    int ggml_type;
    const uint8_t* data;
    size_t stride, rows, columns;
};

// The arrays of a `Matrix` to be written; null those that its scheme does not have.
struct PackedArrays {
    void* codes;
    uint16_t* scales;
    uint16_t* minima;
    int8_t* sub_scales;
    int8_t* sub_minima;
};

// How many bytes of codes, and how many numbers, those arrays take.
struct PackedSizes {
    size_t codes, scales, minima, sub_scales, sub_minima;
};

// These throw std::invalid_argument when there is no such type, or `row_bytes` are not whole blocks of it.
size_t columns_of(int ggml_type, size_t row_bytes);
PackedSizes packed_sizes(int ggml_type, size_t rows, size_t columns);

// Fill panels first … last - 1 of a matrix.
void pack(const BlockRows& from, const PackedArrays& to, size_t first_panel, size_t last_panel);

// The elements of a row, bit for bit those of ggml's reference.
void dequantize_row(int ggml_type, const uint8_t* row, size_t columns, float* out);

}  // namespace rowspan
