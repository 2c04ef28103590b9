// Rounds tokens to bfloat16, and adds up products of bfloat16 numbers by the processor's own instructions.
//
// These instructions round to nearest and take denormal numbers for zeros, whatever the processor is set to. With
// ROWSPAN_EMULATED they are done in plain C++, to the bit as they are documented.
#pragma once

#include "dot.hpp"
#include "matrix.hpp"
#include "team.hpp"

namespace rowspan::ROWSPAN_ISA {

#if !defined(ROWSPAN_EMULATED)

// sums + the products of a's and b's pairs in each lane: of the second ones first. In assembly, which needs no flag.
inline Vec dot_bfloats(Ints a, Ints b, Vec sums) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sums.v) : "v"(a.v), "v"(b.v));
    return sums;
}

#else

// Zeros in place of denormal numbers; their signs stay.
inline Vec flushed(Vec x) {
    const __mmask16 tiny = _mm512_cmp_ps_mask(magnitudes(x).v, _mm512_set1_ps(0x1p-126f), _CMP_LT_OQ);
    return {_mm512_mask_and_ps(x.v, tiny, x.v, _mm512_set1_ps(-0.0f))};
}

inline Vec fma_flushed(Vec a, Vec b, Vec sum) { return flushed(Vec::fma(flushed(a), flushed(b), flushed(sum))); }

inline Vec dot_bfloats(Ints a, Ints b, Vec sums) {
    sums = fma_flushed(a.second_bfloats(), b.second_bfloats(), sums);
    return fma_flushed(a.first_bfloats(), b.first_bfloats(), sums);
}

#endif

// Packed tokens: tiles of Tile of them, the last one may be lower; in a tile of height h (columns / Run, h, Run). Columns
// are filled up with zeros to whole ones of kBfloatColumns.
template <size_t Tile, size_t Run>
struct BfloatTokens {
    uint16_t* codes;
    size_t tokens, columns;

    static size_t bytes(size_t tokens, size_t columns) { return tokens * whole_bfloats(columns) * sizeof(uint16_t); }

    BfloatTokens(void* memory, size_t n_tokens, size_t n_columns)
        : codes(static_cast<uint16_t*>(memory)), tokens(n_tokens), columns(whole_bfloats(n_columns)) {}

    size_t height(size_t first) const { return lower(Tile, tokens - first); }
    // The tile that begins with a token, a multiple of Tile, from a column on.
    uint16_t* tile(size_t first, size_t column) const { return codes + first * columns + column * height(first); }

    // x (tokens, width): these tiles of it.
    static void pack(const float* x, size_t n_tokens, size_t width, void* packed, Range tiles) {
        const BfloatTokens all(packed, n_tokens, width);
        for (size_t token = tiles.from * Tile; token < lower(n_tokens, tiles.to * Tile); ++token) {
            const size_t t = token % Tile, first = token - t;
            for (size_t column = 0; column < width; column += kBfloatColumns) {
                alignas(64) uint16_t rounded[kBfloatColumns];
                round(x + token * width + column, lower(kBfloatColumns, width - column), rounded);
                for (size_t run = 0; run < kBfloatColumns; run += Run)
                    __builtin_memcpy(all.tile(first, column + run) + t * Run, rounded + run, Run * sizeof *rounded);
            }
        }
    }

  private:
    // to (kBfloatColumns) = `count` numbers, then zeros
    static void round(const float* from, size_t count, uint16_t* to) {
        alignas(64) float floats[kBfloatColumns] = {};
        if (count < kBfloatColumns) {
            __builtin_memcpy(floats, from, count * sizeof *from);
            from = floats;
        }
        for (size_t i = 0; i < kBfloatColumns; i += Vec::width) Vec::load(from + i).store_bfloats(to + i);
    }
};

}  // namespace rowspan::ROWSPAN_ISA
