// Packs tokens for matrix products: reorders them and, for integer products, rounds them to int8. Done once for all
// matrices that share an input.
//
// Tokens come in tiles of kTokenTile, the last one may be lower; within a tile of height h, what is needed together lies
// together: floats (columns, h); int8 codes (columns / 4, h, 4), four columns to a lane.
#pragma once

#include "dot.hpp"
#include "simd.hpp"
#include "team.hpp"
#include "transpose.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kTokenTile = 4;
constexpr size_t kScaled = 32;  // columns that share an activation scale: a sum of 32 products stays exact in int32
constexpr size_t kSummed = 16;  // columns whose codes are added up, for zeros and minima of weight groups of 16 or 32

inline size_t token_tiles(size_t tokens) { return (tokens + kTokenTile - 1) / kTokenTile; }
inline size_t tile_height(size_t tokens, size_t tile) { return lower(kTokenTile, tokens - tile * kTokenTile); }

// Activations of one tile from some column on: value = scale · code.
struct Int8Tile {
    int8_t* codes;
    float* scales;  // (columns / kScaled, h)
    int32_t* sums;  // sums of codes, (columns / kSummed, h)
};

// The three arrays of packed int8 tokens, in one block of memory.
struct Int8Tokens {
    int8_t* codes;
    float* scales;
    int32_t* sums;
    size_t tokens, columns;

    static size_t bytes(size_t tokens, size_t columns) {
        return tokens * (columns + columns / kScaled * sizeof(float) + columns / kSummed * sizeof(int32_t)) + 64;
    }
    Int8Tokens(void* memory, size_t n_tokens, size_t n_columns)
        : codes(static_cast<int8_t*>(memory)), tokens(n_tokens), columns(n_columns) {
        scales = reinterpret_cast<float*>(codes + (n_tokens * n_columns + 63) / 64 * 64);
        sums = reinterpret_cast<int32_t*>(scales + n_tokens * n_columns / kScaled);
    }
    Int8Tile tile(size_t index, size_t column) const {
        return part(index * kTokenTile, tile_height(tokens, index), column);
    }
    // The tile of this height that begins with some token.
    Int8Tile part(size_t token, size_t height, size_t column) const {
        return {codes + token * columns + column * height,
                scales + token * (columns / kScaled) + column / kScaled * height,
                sums + token * (columns / kSummed) + column / kSummed * height};
    }
};

inline size_t float_tokens_bytes(size_t tokens, size_t columns) { return tokens * columns * sizeof(float); }
inline size_t int8_tokens_bytes(size_t tokens, size_t columns) { return Int8Tokens::bytes(tokens, columns); }

// Pack these tiles of x (tokens, columns).
inline void pack_floats(const float* x, size_t tokens, size_t columns, void* packed, Range tiles) {
    for (size_t tile = tiles.from; tile < tiles.to; ++tile) {
        const size_t height = tile_height(tokens, tile);
        const float* from = x + tile * kTokenTile * columns;
        float* to = static_cast<float*>(packed) + tile * kTokenTile * columns;
        for (size_t column = 0; column < columns; ++column)
            for (size_t t = 0; t < height; ++t) to[column * height + t] = from[t * columns + column];
    }
}

constexpr float kLeastScale = 1e-37f;  // the smallest scale whose inverse is finite

// Rounds kScaled activations.
struct Rounded {
    float scale;
    int32_t sums[kScaled / kSummed];
    alignas(64) int8_t codes[kScaled];
};

inline Rounded rounded(const float* x) {
    constexpr size_t kVecs = kScaled / Vec::width, kVecsOfSum = kSummed / Vec::width;
    Vec part[kVecs];
    Vec largest = Vec::zero();
    for (size_t i = 0; i < kVecs; ++i) {
        part[i] = Vec::load(x + i * Vec::width);
        largest = Vec::max(largest, magnitudes(part[i]));
    }
    Rounded out;
    out.scale = largest.largest() / 127.0f;
    if (out.scale < kLeastScale) out.scale = kLeastScale;
    const Vec inverse = Vec::all(1.0f / out.scale);
    for (size_t i = 0; i < kVecs; ++i) {
        part[i] = Vec::round(part[i] * inverse);
        part[i].store_codes(out.codes + i * Vec::width);
    }
    for (size_t half = 0; half < kScaled / kSummed; ++half) {
        Vec sum = part[half * kVecsOfSum];
        for (size_t i = 1; i < kVecsOfSum; ++i) sum = sum + part[half * kVecsOfSum + i];
        out.sums[half] = static_cast<int32_t>(sum.sum());  // whole, and far below 2²⁴
    }
    return out;
}

// Packs a tile of any height, token after token.
inline void pack_int8_rows(const float* x, const Int8Tokens& all, size_t tile) {
    const size_t height = tile_height(all.tokens, tile);
    for (size_t t = 0; t < height; ++t) {
        const float* from = x + (tile * kTokenTile + t) * all.columns;
        for (size_t column = 0; column < all.columns; column += kScaled) {
            const Int8Tile to = all.tile(tile, column);
            const Rounded group = rounded(from + column);
            to.scales[t] = group.scale;
            for (size_t half = 0; half < kScaled / kSummed; ++half) to.sums[half * height + t] = group.sums[half];
            for (size_t i = 0; i < kScaled / 4; ++i)
                __builtin_memcpy(to.codes + (i * height + t) * 4, group.codes + i * 4, 4);
        }
    }
}

// A whole tile, so many groups of kScaled columns at a time as a vector has lanes for its tokens': the same numbers, without
// reductions within vectors. Returns the column that comes next.
template <size_t Groups>
inline size_t pack_int8_groups(const float* x, const Int8Tokens& all, size_t tile, size_t column) {
    constexpr size_t kLanes = Groups * kTokenTile;
    const float* rows[Vec::width];
    for (size_t lane = 0; lane < Vec::width; ++lane) {
        const size_t group = lane % kLanes / kTokenTile, token = tile * kTokenTile + lane % kTokenTile;
        rows[lane] = x + token * all.columns + column + group * kScaled;
    }
    // Move each group's lanes, of 4 bytes, to the place of their tokens.
    static_assert(kTokenTile == 4);
    const auto put = [](Vec vector, void* to, size_t stride) {
        if constexpr (kLanes == Vec::width) return vector.store_fours(static_cast<char*>(to), stride);
        alignas(64) float lanes[Vec::width];
        vector.store(lanes);
        for (size_t i = 0; i < Groups; ++i)
            __builtin_memcpy(static_cast<char*>(to) + i * stride, lanes + i * kTokenTile, kTokenTile * 4);
    };
    alignas(64) float lines[kScaled * Vec::width];
    for (; column + Groups * kScaled <= all.columns; column += Groups * kScaled) {
        transpose(rows, kScaled, lines, Vec::width);
        for (const float*& row : rows) row += Groups * kScaled;
        Vec largest = Vec::zero();
        for (size_t c = 0; c < kScaled; ++c) largest = Vec::max(largest, magnitudes(Vec::load(lines + c * Vec::width)));
        const Vec scale = Vec::max(Vec::all(kLeastScale), largest / Vec::all(127.0f)), inverse = Vec::all(1.0f) / scale;
        const Int8Tile to = all.tile(tile, column);
        put(scale, to.scales, kTokenTile * sizeof *to.scales);
        for (size_t half = 0; half < kScaled; half += kSummed) {
            Ints sum = Ints::zero();
#pragma GCC unroll 4
            for (size_t c = half; c < half + kSummed; c += 4) {
                Ints codes[4];
#pragma GCC unroll 4
                for (size_t i = 0; i < 4; ++i) {
                    codes[i] = Ints::rounded(Vec::load(lines + (c + i) * Vec::width) * inverse);
                    sum = sum + codes[i];
                }
                put(Ints::bytes(codes).bits(), to.codes + c * kTokenTile, kScaled * kTokenTile);
            }
            put(sum.bits(), to.sums + half / kSummed * kTokenTile, kScaled / kSummed * kTokenTile * sizeof *to.sums);
        }
    }
    return column;
}

inline void pack_int8(const float* x, size_t tokens, size_t columns, void* packed, Range tiles) {
    const Int8Tokens all(packed, tokens, columns);
    for (size_t tile = tiles.from; tile < tiles.to; ++tile) {
        if (tile_height(tokens, tile) < kTokenTile) {
            pack_int8_rows(x, all, tile);
        } else {
            const size_t rest = pack_int8_groups<Vec::width / kTokenTile>(x, all, tile, 0);
            pack_int8_groups<1>(x, all, tile, rest);
        }
    }
}

}  // namespace rowspan::ROWSPAN_ISA
