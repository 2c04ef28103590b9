// The arithmetic of attention for a few rows and one chunk of keys: scores, their softmax, the weighted sum of the
// values; and how the chunks' sums become one (Dao et al. 2022, FlashAttention).
//
// A score is one chain of fused multiply-adds over the dimensions, an element of a sum one over the keys, and
// no product stands where a compiler may or may not fuse it into an addition: a row has the same bits in any block.
#pragma once

#include "cache_rows.hpp"
#include "transpose.hpp"
#include "vector_math.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kKeyChunk = 256;  // keys per softmax; chunks begin at multiples of it
constexpr size_t kKeyTile = 64;    // keys in the first cache at a time
constexpr size_t kQueryTile = 64;  // rows at most: enough to make up for converting and transposing the keys

// Weights of one row and those of the next: a power of two would put a tile's into a few sets of the first cache.
constexpr size_t kWeightStride = kKeyChunk + 16;

// The positions that both hold, relative to the second's start; from == to if none.
inline Range part_of(Range positions, Range of) {
    const size_t from = lower(higher(positions.from, of.from), of.to);
    return {from - of.from, higher(from, lower(positions.to, of.to)) - of.from};
}

// The weighted sum of the values that one row sees, in one chunk or in all so far.
struct Sum {
    float* values;   // (padded size)
    float* highest;  // score: weights are relative to its own
    float* total;    // of the weights; 0 if the row sees nothing here
};

inline size_t sum_floats(size_t size) { return padded(size) + Vec::width; }
inline Sum sum_at(float* sums, size_t index, size_t size) {
    float* values = sums + index * sum_floats(size);
    return {values, values + padded(size), values + padded(size) + 1};
}
inline Sum empty_sum(float* sums, size_t index, size_t size) {
    const Sum sum = sum_at(sums, index, size);
    for (size_t d = 0; d < padded(size); ++d) sum.values[d] = 0.0f;
    *sum.highest = -__builtin_inff();
    *sum.total = 0.0f;
    return sum;
}

// Add the next chunk to those before it.
inline void add_chunk(const Sum& sum, const Sum& chunk, size_t size) {
    if (*chunk.total == 0.0f) return;
    const float highest = *sum.highest < *chunk.highest ? *chunk.highest : *sum.highest;
    const Vec shrink = exp(Vec::all(*sum.highest - highest)), weight = exp(Vec::all(*chunk.highest - highest));
    for (size_t d = 0; d < padded(size); d += Vec::width) {
        Vec::fma(weight, Vec::load(chunk.values + d), shrink * Vec::load(sum.values + d)).store(sum.values + d);
    }
    float totals[Vec::width];
    Vec::fma(weight, Vec::all(*chunk.total), shrink * Vec::all(*sum.total)).store(totals);
    *sum.total = totals[0];
    *sum.highest = highest;
}

constexpr size_t kBlockRows = 6;  // at most, computed together

template <size_t Rows>
struct Block {
    static constexpr size_t rows = Rows;
    // Vectors per row in registers: enough to keep the arithmetic busy, with room for operands.
    static constexpr size_t vectors = Vec::width == 16 ? 4 : Rows == 1 ? 8 : Rows == 2 ? 4 : 2;
};

// Call visit(Block<n>, r) for rows r … r + n - 1, until all are done.
template <typename Visit>
inline void by_blocks(size_t n_rows, Visit visit) {
    size_t r = 0;
    for (; r + kBlockRows <= n_rows; r += kBlockRows) visit(Block<kBlockRows>(), r);
    switch (n_rows - r) {
        case 1: return visit(Block<1>(), r);
        case 2: return visit(Block<2>(), r);
        case 3: return visit(Block<3>(), r);
        case 4: return visit(Block<4>(), r);
        case 5: return visit(Block<5>(), r);
    }
}

// scores (Rows, kWeightStride) of a tile: q (size, Rows) · keys (size, kKeyTile)
template <size_t Rows>
inline void score(const float* q, const float* keys, size_t size, float* scores) {
    constexpr size_t kVectors = Block<Rows>::vectors;
    for (size_t at = 0; at < kKeyTile; at += kVectors * Vec::width) {
        Vec sums[Rows][kVectors];
        for (auto& row : sums) {
            for (Vec& sum : row) sum = Vec::zero();
        }
        for (size_t d = 0; d < size; ++d) {
            Vec key[kVectors];
            for (size_t c = 0; c < kVectors; ++c) key[c] = Vec::load(keys + d * kKeyTile + at + c * Vec::width);
#pragma GCC unroll 8
            for (size_t r = 0; r < Rows; ++r) {
                const Vec element = Vec::all(q[d * Rows + r]);
#pragma GCC unroll 8
                for (size_t c = 0; c < kVectors; ++c) sums[r][c] = Vec::fma(element, key[c], sums[r][c]);
            }
        }
        for (size_t r = 0; r < Rows; ++r) {
            for (size_t c = 0; c < kVectors; ++c) sums[r][c].store(scores + r * kWeightStride + at + c * Vec::width);
        }
    }
}

// Turn these rows' scores of the keys of a chunk that each sees into weights relative to the highest of them.
template <size_t Rows>
inline void weigh(float* scores, const Range* sees, Range chunk, const Sum* sums) {
    Range vectors[Rows];
    for (size_t r = 0; r < Rows; ++r) {
        float* row = scores + r * kWeightStride;
        const Range seen = part_of(sees[r], chunk);
        vectors[r] = {seen.from / Vec::width * Vec::width, padded(seen.to)};
        for (size_t i = vectors[r].from; i < seen.from; ++i) row[i] = -__builtin_inff();
        for (size_t i = seen.to; i < vectors[r].to; ++i) row[i] = -__builtin_inff();
        Vec tops = Vec::all(-__builtin_inff());
        for (size_t i = vectors[r].from; i < vectors[r].to; i += Vec::width) tops = Vec::max(tops, Vec::load(row + i));
        *sums[r].highest = tops.largest();
    }
    // The hidden keys' e⁻⁸⁷ each are lost in rounding: the total is at least the 1 of the highest score.
    for (size_t r = 0; r < Rows; ++r) {
        float* row = scores + r * kWeightStride;
        const Vec highest = Vec::all(*sums[r].highest);
        Vec totals = Vec::zero();
        for (size_t i = vectors[r].from; i < vectors[r].to; i += Vec::width) {
            const Vec weights = exp(Vec::load(row + i) - highest);
            weights.store(row + i);
            totals = totals + weights;
        }
        *sums[r].total = totals.sum();
    }
}

// sums of `Rows` rows += weights · values (keys, size) over these keys, for the dimensions from d on; size: padded
template <size_t Rows, size_t Vectors = Block<Rows>::vectors>
inline void add_values(const Sum* sums, const float* weights, const float* values, Range keys, size_t size,
                       size_t d = 0) {
    if (keys.from >= keys.to) return;
    for (; d + Vectors * Vec::width <= size; d += Vectors * Vec::width) {
        Vec totals[Rows][Vectors];
        for (size_t r = 0; r < Rows; ++r) {
            for (size_t c = 0; c < Vectors; ++c) totals[r][c] = Vec::load(sums[r].values + d + c * Vec::width);
        }
        for (size_t key = keys.from; key < keys.to; ++key) {
            Vec value[Vectors];
            for (size_t c = 0; c < Vectors; ++c) value[c] = Vec::load(values + key * size + d + c * Vec::width);
#pragma GCC unroll 8
            for (size_t r = 0; r < Rows; ++r) {
                const Vec weight = Vec::all(weights[r * kWeightStride + key]);
#pragma GCC unroll 8
                for (size_t c = 0; c < Vectors; ++c) totals[r][c] = Vec::fma(weight, value[c], totals[r][c]);
            }
        }
        for (size_t r = 0; r < Rows; ++r) {
            for (size_t c = 0; c < Vectors; ++c) totals[r][c].store(sums[r].values + d + c * Vec::width);
        }
    }
    if constexpr (Vectors > 1) add_values<Rows, Vectors / 2>(sums, weights, values, keys, size, d);
}

// sums += weights · values over these keys of a tile: those that all rows see together, what lies before and after for
// each row alone, in the keys' order for each: no row meets what it does not see itself.
template <size_t Rows>
inline void add_seen_values(const Range* sees, const Sum* sums, const float* weights, const float* values,
                            Range tile, size_t size) {
    Range seen[Rows];
    Range by_all = {0, tile.to - tile.from};
    for (size_t r = 0; r < Rows; ++r) {
        seen[r] = part_of(sees[r], tile);
        by_all = {higher(by_all.from, seen[r].from), lower(by_all.to, seen[r].to)};
    }
    by_all.to = higher(by_all.from, by_all.to);

    for (size_t r = 0; r < Rows; ++r) {
        const Range before = {seen[r].from, lower(seen[r].to, by_all.from)};
        add_values<1>(sums + r, weights + r * kWeightStride, values, before, size);
    }
    add_values<Rows>(sums, weights, values, by_all, size);
    for (size_t r = 0; r < Rows; ++r) {
        const Range after = {higher(seen[r].from, by_all.to), seen[r].to};
        add_values<1>(sums + r, weights + r * kWeightStride, values, after, size);
    }
}

// Rows that share one sequence and KV head, in the order of their tokens.
struct Queries {
    size_t count;
    Range sees[kQueryTile];                      // positions
    alignas(64) float q[kQueryTile * kMaxHead];  // scaled; (size, n) for each block of n

    void set(size_t r, const float* from, size_t size, Range seen) {
        sees[r] = seen;
        const size_t block = r / kBlockRows * kBlockRows, n = lower(count - block, kBlockRows);
        const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(size));
        for (size_t d = 0; d < size; ++d) q[block * size + d * n + r - block] = from[d] * scale;
    }
};

// Where one chunk is worked on.
struct ChunkBuffers {
    alignas(64) float rows[kKeyTile * kMaxHead];
    alignas(64) float keys[kMaxHead * kKeyTile];  // (size, kKeyTile)
    alignas(64) float weights[kQueryTile * kWeightStride];
};

// The rows that a chunk's work reads, in this order: its keys, its values, and the next chunk's keys.
struct ChunkRows {
    const CachedRows &k, &v;
    Range chunk;  // positions
    size_t end;   // of all that is seen

    size_t count() const { return chunk.to - chunk.from; }
    // Have row n in the second cache when its turn comes: some microseconds ahead.
    void prefetch(size_t n) const {
        if (n < count()) return k.prefetch(chunk.from + n);
        const size_t position = chunk.from + n - count();
        if (position < chunk.to) return v.prefetch(position);
        if (position < end) k.prefetch(position);
    }
    void read_keys(Range positions, float* to) const {
        k.read(positions, to, [&](size_t position) { prefetch(position - chunk.from + kKeyTile); });
    }
    void read_values(Range positions, float* to) const {
        v.read(positions, to, [&](size_t position) { prefetch(position - chunk.from + kKeyTile + count()); });
    }
};

// keys (size, kKeyTile) = the transposed rows of these positions of the tile; the others' columns mean nothing.
inline void load_keys(const ChunkRows& chunk, Range tile, Range seen, ChunkBuffers& buffers) {
    const size_t row_stride = padded(chunk.k.size);
    for (size_t first = seen.from / Vec::width * Vec::width; first < seen.to; first += Vec::width) {
        const size_t from = higher(first, seen.from), to = lower(first + Vec::width, seen.to);
        chunk.read_keys({tile.from + from, tile.from + to}, buffers.rows + (from - first) * row_stride);
        transpose(buffers.rows, row_stride, (chunk.k.size + 3) / 4 * 4, buffers.keys + first, kKeyTile);
    }
}

// sums = softmax(q · keys) · values over one chunk, given as the positions of it that some row sees: nothing else is
// read, as an unwritten slot may hold NaN.
inline void attend(const Queries& queries, const CachedRows& k, const CachedRows& v, Range chunk, ChunkBuffers& buffers,
                   float* memory) {
    const size_t size = k.size, start = chunk.from / kKeyChunk * kKeyChunk;
    const ChunkRows rows = {k, v, chunk, queries.sees[queries.count - 1].to};
    const auto by_tiles = [&](auto visit) {
        for (size_t at = chunk.from / kKeyTile * kKeyTile; at < chunk.to; at += kKeyTile) {
            const Range tile = {at, at + kKeyTile};
            visit(tile, part_of(chunk, tile), buffers.weights + (at - start));
        }
    };
    Sum sums[kQueryTile];
    for (size_t r = 0; r < queries.count; ++r) sums[r] = empty_sum(memory, r, size);

    by_tiles([&](Range tile, Range seen, float* scores) {
        load_keys(rows, tile, seen, buffers);
        by_blocks(queries.count, [&](auto block, size_t r) {
            score<block.rows>(queries.q + r * size, buffers.keys, size, scores + r * kWeightStride);
        });
    });
    by_blocks(queries.count, [&](auto block, size_t r) {
        weigh<block.rows>(buffers.weights + r * kWeightStride, queries.sees + r, {start, start + kKeyChunk}, sums + r);
    });
    by_tiles([&](Range tile, Range seen, const float* weights) {
        rows.read_values({tile.from + seen.from, tile.from + seen.to}, buffers.rows + seen.from * padded(size));
        by_blocks(queries.count, [&](auto block, size_t r) {
            add_seen_values<block.rows>(queries.sees + r, sums + r, weights + r * kWeightStride, buffers.rows, tile,
                                        padded(size));
        });
    });
}

}  // namespace rowspan::ROWSPAN_ISA
