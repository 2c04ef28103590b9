// Attention to one chunk of keys in the tile registers of AMX, for caches of bfloat16: scores, their softmax, the weighted
// sum of the values, added up in float32.
//
// Keys and values are taken as they are cached; rows of q, and of the softmax's weights, are rounded to bfloat16, too. A
// tile adds up 32 numbers from zero, which begin at absolute positions, and what a row does not see has weight 0: its
// company does not matter.
#pragma once

#include "bfloats.hpp"
#include "each.hpp"
#include "flash.hpp"
#include "tiles.hpp"
#include "transpose.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kBfloatStride = kKeyChunk + 2 * Vec::width;  // see kWeightStride
static_assert(kQueryTile % kTileTokens == 0 && kKeyTile == 4 * kPanel);
static_assert(kUsualHead % kBfloatColumns == 0 && kMaxHead % kBfloatColumns == 0);

// One thread's work on rows that share a sequence and KV head, of so many elements at most.
template <size_t MaxHead>
class BfloatFlash {
  public:
    static constexpr size_t kMaxSize = MaxHead;

    // The rows to come: their number; then each, in the order of their tokens, with the positions that it sees.
    void begin(size_t count, const AttentionOptions& options) {
        count_ = count;
        scale_ = options.scale;
        soft_cap_ = options.soft_cap;
    }
    void set(size_t r, const float* q, size_t size, Range sees) {
        sees_[r] = sees;
        alignas(64) float scaled[MaxHead] = {};
        for (size_t d = 0; d < size; ++d) scaled[d] = q[d] * scale_;
        uint16_t* to = q_ + r * whole_bfloats(size);
        for (size_t d = 0; d < whole_bfloats(size); d += Vec::width) Vec::load(scaled + d).store_bfloats(to + d);
    }

    // sums (count) = softmax(q · keys) · values over one chunk, given as the positions of it that some row sees:
    // nothing else is read, as an unwritten slot may hold NaN.
    void attend(const Chunk& of, const Chunk&, float* memory) {
        const auto& [k, v, chunk] = of;
        const size_t size = v.size, start = chunk.from / kKeyChunk * kKeyChunk;
        by_tiles(chunk, [&](Range tile, Range seen) {
            load_keys(k, tile, seen);
            score(whole_bfloats(k.size), weights_ + (tile.from - start));
        });
        by_tiles(chunk, [&](Range tile, Range seen) { load_values(v, tile, seen, tile.from - start); });

        const Range whole = {start, start + kKeyChunk}, loaded = part_of(chunk, whole);
        const Range steps = {loaded.from / kBfloatColumns, (loaded.to + kBfloatColumns - 1) / kBfloatColumns};
        for (size_t r = 0; r < count_; ++r) weigh(r, part_of(sees_[r], whole), steps, empty_sum(memory, r, size));
        for (size_t r = 0; r < count_; r += kTileTokens) {
            add_values(r, lower(kTileTokens, count_ - r), steps, size, memory);
        }
    }

  private:
    // keys (pairs of dimensions, kKeyTile) = the rows of these positions of the tile, transposed; what stands for the
    // others means nothing.
    void load_keys(const CachedRows& k, Range tile, Range seen) {
        by_vectors(seen, [&](size_t first, Range rows) {
            const uint16_t* cached[Vec::width];
            read(k, tile.from + first, rows, cached);
            const float* pairs[Vec::width];
            for (size_t r = 0; r < Vec::width; ++r) pairs[r] = reinterpret_cast<const float*>(cached[r]);
            transpose(pairs, whole_bfloats(k.size) / 2, reinterpret_cast<float*>(keys_ + first), kKeyTile);
        });
    }

    // values (pairs of keys, padded) of the chunk, from `at` on = the rows of these positions; numbers for the others in
    // the steps that they are part of.
    void load_values(const CachedRows& v, Range tile, Range seen, size_t at) {
        const size_t stride = padded(v.size);
        by_vectors({seen.from / kBfloatColumns * kBfloatColumns, whole_bfloats(seen.to)}, [&](size_t first, Range) {
            const Range rows = part_of(seen, {first, first + Vec::width});
            const uint16_t* cached[Vec::width];
            if (rows.from == rows.to) {
                for (const uint16_t*& row : cached) row = kZeros;
            } else {
                read(v, tile.from + first, rows, cached);
            }
            interleave(cached, stride, values_ + (at + first) / 2 * stride);
        });
    }

    // rows (depth) of these positions from `first` on; in place of the others, one of them.
    void read(const CachedRows& cached, size_t first, Range rows, const uint16_t** to) {
        const size_t size = cached.size;
        for (size_t r = rows.from; r < rows.to; ++r) {
            to[r] = cached.bfloats(first + r);
            if (size % kBfloatColumns == 0) continue;
            uint16_t* copy = rows_ + r * MaxHead;
            __builtin_memcpy(copy, to[r], size * sizeof *copy);
            for (size_t d = size; d < whole_bfloats(size); ++d) copy[d] = 0;
            to[r] = copy;
        }
        for (size_t r = 0; r < rows.from; ++r) to[r] = to[rows.from];
        for (size_t r = rows.to; r < Vec::width; ++r) to[r] = to[rows.from];
    }

    // scores (rows, kWeightStride) of a tile of keys: q · keys. Rows that there are not mean nothing.
    void score(size_t depth, float* scores) {
        Tiles registers{TileConfig{}};
        for (size_t r = 0; r < count_; r += kTileTokens) {
            each<4>([&](auto c) { registers.zero<c.value>(); });
            for (size_t d = 0; d < depth; d += kBfloatColumns) {
                registers.load<4>(q_ + r * depth + d, depth * sizeof *q_);
                each<4>([&](auto c) {
                    registers.load<6 + c.value % 2>(keys_ + d / 2 * kKeyTile + c.value * kPanel,
                                                    kKeyTile * sizeof *keys_);
                    registers.multiply_bfloats<c.value, 4, 6 + c.value % 2>();
                });
            }
            each<4>([&](auto c) {
                registers.store<c.value>(scores + r * kWeightStride + c.value * kPanel, kWeightStride * sizeof(float));
            });
        }
    }

    // Turn a row's scores of the keys of a chunk into weights relative to the highest, 0 for the keys that it does not see
    // in the steps that are summed.
    void weigh(size_t r, Range seen, Range steps, const Sum& sum) {
        float* row = weights_ + r * kWeightStride;
        if (soft_cap_ != 0.0f) cap_scores(row, seen, 1.0f, soft_cap_);
        *sum.highest = highest_seen(row, seen);

        uint16_t* weights = bfloats_ + r * kBfloatStride;
        for (size_t i = steps.from * kBfloatColumns; i < steps.to * kBfloatColumns; ++i) weights[i] = 0;
        const Vec highest = Vec::all(*sum.highest);
        Vec totals = Vec::zero();
        by_seen(seen, [&](size_t i, size_t, auto only_seen) {
            only_seen(exp2(Vec::load(row + i) - highest), 0.0f).store_bfloats(weights + i);
            totals = totals + Vec::bfloats(weights + i);  // as rounded: an average of values stays one
        });
        *sum.total = totals.sum();
    }

    // The sums of rows r … r + n - 1 = weights · values over these steps of kBfloatColumns keys of the chunk.
    void add_values(size_t r, size_t n, Range steps, size_t size, float* memory) {
        TileConfig config;
        for (size_t tile = 0; tile < 5; ++tile) config.rows[tile] = static_cast<uint8_t>(n);
        Tiles registers(config);
        const auto vectors = [&](auto together, size_t d) {
            each<together.value>([&](auto c) { registers.zero<c.value>(); });
            for (size_t step = steps.from; step < steps.to; ++step) {
                const uint16_t* weights = bfloats_ + r * kBfloatStride + step * kBfloatColumns;
                const int32_t* values = values_ + step * kBfloatColumns / 2 * padded(size) + d;
                registers.load<4>(weights, kBfloatStride * sizeof *weights);
                each<together.value>([&](auto c) {
                    registers.load<6 + c.value % 2>(values + c.value * kPanel, padded(size) * sizeof *values);
                    registers.multiply_bfloats<c.value, 4, 6 + c.value % 2>();
                });
            }
            each<together.value>([&](auto c) {
                registers.store<c.value>(sum_at(memory, r, size).values + d + c.value * kPanel,
                                         sum_floats(size) * sizeof(float));
            });
        };
        size_t d = 0;
        for (; d + 4 * kPanel <= padded(size); d += 4 * kPanel) vectors(std::integral_constant<int, 4>{}, d);
        for (; d < padded(size); d += kPanel) vectors(std::integral_constant<int, 1>{}, d);
    }

    static constexpr uint16_t kZeros[MaxHead] = {};

    size_t count_;
    float scale_, soft_cap_;
    Range sees_[kQueryTile];                               // positions
    alignas(64) uint16_t q_[kQueryTile * MaxHead];        // (rows, depth), scaled
    alignas(64) uint16_t rows_[Vec::width * MaxHead];     // keys or values, filled up with zeros
    alignas(64) int32_t keys_[MaxHead / 2 * kKeyTile];
    alignas(64) int32_t values_[kKeyChunk / 2 * MaxHead];
    alignas(64) float weights_[kQueryTile * kWeightStride];    // of the chunk: scores
    alignas(64) uint16_t bfloats_[kQueryTile * kBfloatStride];  // the weights
};

}  // namespace rowspan::ROWSPAN_ISA
