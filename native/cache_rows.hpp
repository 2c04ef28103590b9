// Rows of the KV cache, one head of one token each, between its types and float32.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kMaxHead = 256;      // elements per head that buffers have room for: callers refuse more
constexpr size_t kCodesPerScale = 32;  // of q8_0

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
            const Vec x = Vec::load(from + d);
            largest = Vec::max(largest, Vec::max(x, Vec::zero() - x));
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
    const int64_t* slots;
    size_t kv_heads, kv_head, size;

    // to (positions, padded) = the rows of these positions; calls before_each(position).
    template <typename BeforeEach>
    void read(Range positions, float* to, BeforeEach before_each) const {
        const auto each = [&](auto elements, auto load) {
            for (size_t position = positions.from; position < positions.to; ++position, to += padded(size)) {
                before_each(position);
                widen(elements + row_of(position) * size, size, to, load);
            }
        };
        const auto* halves = static_cast<const uint16_t*>(side.data);
        const auto* codes = static_cast<const int8_t*>(side.data);
        switch (side.type) {
            case CacheType::f32: return each(static_cast<const float*>(side.data), Vec::load);
            case CacheType::f16: return each(halves, Vec::halves);
            case CacheType::bf16: return each(halves, Vec::bfloats);
            case CacheType::q8_0:
                for (size_t position = positions.from; position < positions.to; ++position, to += size) {
                    before_each(position);
                    const size_t row = row_of(position);
                    widen_q8(codes + row * size, side.scales + row * (size / kCodesPerScale), size, to);
                }
        }
    }

    void prefetch(size_t position) const {
        const size_t bytes = size * element_bytes(), row = row_of(position);
        const char* at = static_cast<const char*>(side.data) + row * bytes;
        for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
        if (side.type == CacheType::q8_0) __builtin_prefetch(side.scales + row * (size / kCodesPerScale), 0, 2);
    }

  private:
    size_t row_of(size_t position) const { return static_cast<size_t>(slots[position]) * kv_heads + kv_head; }
    size_t element_bytes() const { return side.type == CacheType::f32 ? 4 : side.type == CacheType::q8_0 ? 1 : 2; }
};

inline void write_cache(const float* rows, size_t kv_heads, size_t size, const int64_t* slots, const CacheSide& side,
                        Range tokens) {
    const auto store = [](Vec x, float* to) { x.store(to); };
    const auto store_halves = [](Vec x, uint16_t* to) { x.store_halves(to); };
    const auto store_bfloats = [](Vec x, uint16_t* to) { x.store_bfloats(to); };
    for (size_t token = tokens.from; token < tokens.to; ++token) {
        // A token's heads lie side by side in both arrays, and no block of q8_0 reaches across two of them.
        const float* from = rows + token * kv_heads * size;
        const size_t n = kv_heads * size, at = static_cast<size_t>(slots[token]) * n;
        auto* halves = static_cast<uint16_t*>(side.data) + at;
        switch (side.type) {
            case CacheType::f32: narrow(from, n, static_cast<float*>(side.data) + at, store); break;
            case CacheType::f16: narrow(from, n, halves, store_halves); break;
            case CacheType::bf16: narrow(from, n, halves, store_bfloats); break;
            case CacheType::q8_0:
                narrow_q8(from, n, static_cast<int8_t*>(side.data) + at, side.scales + at / kCodesPerScale);
        }
    }
}

}  // namespace rowspan::ROWSPAN_ISA
