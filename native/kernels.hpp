// The kernels every instruction set implements, as plain functions over raw memory. Shapes are given in elements; all
// arrays are contiguous, row-major and float32 unless said otherwise. A thread runs tasks [begin, end) of a kernel whose
// work was cut into independent tasks: see pool.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rowspan {

// A matrix (rows × columns) quantized in groups of columns: value = scale · code + minimum. Rows come in panels of 16,
// padded with zeros: codes (panels, columns, 16) int8, or (panels, columns / 2, 16) with the even column in the low
// half of the byte; scales and minima (panels, groups, 16).
struct GroupedMatrix {
    const int8_t* codes;
    const float* scales;
    const float* minima;  // may be null: all zero
    size_t rows, columns, group;
    bool four_bit;
};

// Attention of `sequences` sequences with `tokens` new tokens each. q and out (sequences, tokens, kv_heads · group, size);
// k and v (slots, kv_heads, size): the whole cache of a layer. slots (sequences, slot_stride): where positions 0, 1, … of
// a sequence are; new token t of sequence b is at position first_positions[b] + t and sees no later one, and none more
// than window - 1 before it (window 0: all). Scores are scaled by 1 / sqrt(size).
struct Attention {
    const float* q;
    const float* k;
    const float* v;
    const int64_t* slots;
    const int64_t* first_positions;
    float* out;
    size_t sequences, tokens, slot_stride, kv_heads, group, size, window;
};

struct Kernels {
    const char* name;

    // y (tokens, rows) = x (tokens, columns) · matrix.T + bias (rows; may be null). Tasks: panels of 16 rows.
    // packed: x as `pack_tokens` leaves it.
    void (*linear)(const float* packed, size_t tokens, const GroupedMatrix& matrix, const float* bias, float* y,
                   size_t first_panel, size_t last_panel);
    // Reorder x (tokens, columns) for `linear`. Tasks: groups of `token_tile` tokens.
    void (*pack_tokens)(const float* x, size_t tokens, size_t columns, float* packed, size_t first, size_t last);
    size_t token_tile;

    // out (n, width) = x / rms(x) · weight. Tasks: rows.
    void (*rms_norm)(const float* x, const float* weight, float eps, size_t width, float* out, size_t first,
                     size_t last);
    // out = silu(gate) · up. Tasks: elements.
    void (*gated_silu)(const float* gate, const float* up, float* out, size_t first, size_t last);
    // Rotate the leading 2 · half elements of each head of x (tokens, heads, size) into out, by cos and sin
    // (tokens, half). Tasks: tokens.
    void (*rope)(const float* x, const float* cos, const float* sin, size_t heads, size_t size, size_t half,
                 bool interleaved, float* out, size_t first, size_t last);
    // Causal attention of sequences with equally many new tokens over the paged cache. Tasks: see attention_tasks.
    void (*attention)(const Attention& work, size_t first, size_t last);
    size_t (*attention_tasks)(const Attention& work);
};

const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

}  // namespace rowspan
