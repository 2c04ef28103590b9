// Rows of the KV cache, one head of one token each, between its types and what is computed with: float32, or 16-bit
// integers.
#pragma once

#include "int16_rows.hpp"
#include "kernels.hpp"

namespace rowspan::ROWSPAN_ISA {

// Sums of products of codes stay below 2³¹.
static_assert((kFineCodes.sum + kMaxHead / 2) * kCachedCodes.each < 2147483648.0);

// Elements of a row in a buffer: whole vectors, the rest of the last one zero.
inline size_t padded(size_t size) { return (size + Vec::width - 1) / Vec::width * Vec::width; }

// to (padded) = load(from …)
template <typename T, typename Load>
inline void widen(const T* from, size_t size, float* to, Load load) {
    const size_t whole = size / Vec::width * Vec::width;
    for (size_t d = 0; d < whole; d += Vec::width) load(from + d).store(to + d);
    if (whole == size) return;
    T rest[Vec::width] = {};
    for (size_t d = whole; d < size; ++d) rest[d - whole] = from[d];
    load(rest).store(to + whole);
}

// to (size) = what store(vector, …) makes of each vector of `from`
template <typename T, typename Store>
inline void narrow(const float* from, size_t size, T* to, Store store) {
    const size_t whole = size / Vec::width * Vec::width;
    for (size_t d = 0; d < whole; d += Vec::width) store(Vec::load(from + d), to + d);
    if (whole == size) return;
    float rest[Vec::width] = {};
    T stored[Vec::width];
    for (size_t d = whole; d < size; ++d) rest[d - whole] = from[d];
    store(Vec::load(rest), stored);
    for (size_t d = whole; d < size; ++d) to[d] = stored[d - whole];
}

inline void widen_q8(const int8_t* codes, const uint16_t* scales, size_t size, float* to) {
    for (size_t first = 0; first < size; first += kCodesPerScale, ++scales) {
        const Vec scale = Vec::all(_cvtsh_ss(*scales));
        for (size_t i = 0; i < kCodesPerScale; i += Vec::width) {
            (Vec::codes(codes + first + i) * scale).store(to + first + i);
        }
    }
}

inline void narrow_q8(const float* from, size_t size, int8_t* codes, uint16_t* scales) {
    for (size_t first = 0; first < size; first += kCodesPerScale) {
        Vec largest = Vec::zero();
        for (size_t d = first; d < first + kCodesPerScale; d += Vec::width) {
            largest = Vec::max(largest, magnitudes(Vec::load(from + d)));
        }
        const uint16_t half = _cvtss_sh(largest.largest() / 127.0f, _MM_FROUND_TO_NEAREST_INT);
        // By the scale that is stored, whose rounding may put the largest element just beyond ±127. A scale of 0 leaves
        // 0 in place of all elements.
        const Vec scale = Vec::all(half == 0 ? __builtin_inff() : _cvtsh_ss(half));
        for (size_t d = first; d < first + kCodesPerScale; d += Vec::width) {
            const Vec code = Vec::round(Vec::load(from + d) / scale);
            Vec::max(Vec::all(-127.0f), Vec::min(Vec::all(127.0f), code)).store_codes(codes + d);
        }
        scales[first / kCodesPerScale] = half;
    }
}

// One sequence's keys, or values, in one KV head.
struct CachedRows {
    const CacheSide& side;
    BlockTable table;
    size_t kv_head, size = side.size;

    // to (positions, padded) = the rows of these positions
    void read(Range positions, float* to) const {
        for (size_t position = positions.from; position < positions.to; ++position, to += padded(size)) {
            widen_row(row_of(position), to);
        }
    }
    // The row of a position, of a cache of bf16.
    const uint16_t* bfloats(size_t position) const { return halves() + row_of(position) * size; }
    // codes (positions, stride), n_words(size) of each, and scales (positions) = the rows of these positions.
    void encode_rows(Range positions, int16_t* codes, size_t stride, float* scales) const {
        for (size_t position = positions.from; position < positions.to; ++position, codes += stride) {
            alignas(64) float floats[kMaxHead];
            widen_row(row_of(position), floats);
            *scales++ = encode(floats, size, kCachedCodes, codes);
        }
    }

    // Whether rows are cached as tiles of codes; and the tile that begins with a position, a multiple of kTileRows, and
    // the scales of its rows.
    bool has_tiles() const { return side.type == CacheType::i16_keys || side.type == CacheType::i16_values; }
    const int32_t* tile(size_t position) const {
        return reinterpret_cast<const int32_t*>(words() + row_of(position) * size);
    }
    const float* tile_scales(size_t position) const { return row_scales() + row_of(position); }

    void write(const float* from, size_t slot) const {
        const size_t row = kv_head * side.slots + slot, at = row * size;
        switch (side.type) {
            case CacheType::f32:
                return narrow(from, size, static_cast<float*>(side.data) + at, [](Vec x, float* to) { x.store(to); });
            case CacheType::f16:
                return narrow(from, size, halves() + at, [](Vec x, uint16_t* to) { x.store_halves(to); });
            case CacheType::bf16:
                return narrow(from, size, halves() + at, [](Vec x, uint16_t* to) { x.store_bfloats(to); });
            case CacheType::q8_0:
                return narrow_q8(from, size, bytes() + at, block_scales() + at / kCodesPerScale);
            case CacheType::i16_keys:
            case CacheType::i16_values:
                int16_t codes[kMaxHead];
                row_scales()[row] = encode(from, size, kCachedCodes, codes);
                by_places(row, [&](size_t d, int16_t& code) { code = codes[d]; });
        }
    }

  private:
    size_t row_of(size_t position) const { return kv_head * side.slots + table.slot(position); }

    uint16_t* halves() const { return static_cast<uint16_t*>(side.data); }
    int8_t* bytes() const { return static_cast<int8_t*>(side.data); }
    int16_t* words() const { return static_cast<int16_t*>(side.data); }
    uint16_t* block_scales() const { return static_cast<uint16_t*>(side.scales); }
    float* row_scales() const { return static_cast<float*>(side.scales); }

    // Call visit(d, code) for each element of a row that is kept in a tile.
    template <typename Visit>
    void by_places(size_t row, Visit visit) const {
        int16_t* const tile = words() + row / kTileRows * kTileRows * size;
        const size_t lane = row % kTileRows;
        if (side.type == CacheType::i16_keys) {
            for (size_t d = 0; d < size; ++d) visit(d, tile[(d / 2 * kTileRows + lane) * 2 + d % 2]);
        } else {
            for (size_t d = 0; d < size; ++d) visit(d, tile[(lane / 2 * size + d) * 2 + lane % 2]);
        }
    }

    void widen_row(size_t row, float* to) const {
        const size_t at = row * size;
        switch (side.type) {
            case CacheType::f32: return widen(static_cast<const float*>(side.data) + at, size, to, Vec::load);
            case CacheType::f16: return widen(halves() + at, size, to, Vec::halves);
            case CacheType::bf16: return widen(halves() + at, size, to, Vec::bfloats);
            case CacheType::q8_0: return widen_q8(bytes() + at, block_scales() + at / kCodesPerScale, size, to);
            case CacheType::i16_keys:
            case CacheType::i16_values:
                by_places(row, [&](size_t d, int16_t code) { to[d] = static_cast<float>(code) * row_scales()[row]; });
        }
    }
};

inline void write_cache(const float* rows, const int64_t* slots, const CacheSide& side, Range tokens) {
    for (size_t token = tokens.from; token < tokens.to; ++token) {
        for (size_t head = 0; head < side.kv_heads; ++head) {
            const CachedRows cached = {side, {}, head};
            cached.write(rows + (token * side.kv_heads + head) * side.size, static_cast<size_t>(slots[token]));
        }
    }
}

}  // namespace rowspan::ROWSPAN_ISA
