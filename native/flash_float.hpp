// Attention to one chunk of keys in float32: scores, their softmax, the weighted sum of the values.
//
// A score is one chain of fused multiply-adds over the dimensions, an element of a sum one over the keys, and
// no product stands where a compiler may or may not fuse it into an addition: a row has the same bits in any block.
#pragma once

#include "flash.hpp"
#include "transpose.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kFloatRows = 6;  // at most, computed together

// Vectors per row in registers: enough to keep the arithmetic busy, with room for operands.
template <size_t Rows>
constexpr size_t kFloatVectors = Vec::width == 16 ? 4 : Rows == 1 ? 8 : Rows == 2 ? 4 : 2;

// One thread's work on rows that share a sequence and KV head, of so many elements at most.
template <size_t MaxHead>
class FloatFlash {
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
        const size_t block = r / kFloatRows * kFloatRows, n = lower(count_ - block, kFloatRows);
        for (size_t d = 0; d < size; ++d) q_[block * size + d * n + r - block] = q[d] * scale_;
    }

    // sums (count) = softmax(q · keys) · values over one chunk, given as the positions of it that some row sees:
    // nothing else is read, as an unwritten slot may hold NaN.
    void attend(const Chunk& of, const Chunk&, float* memory) {
        const auto& [k, v, chunk] = of;
        const size_t size = k.size, values = v.size, start = chunk.from / kKeyChunk * kKeyChunk;
        Sum sums[kQueryTile];
        for (size_t r = 0; r < count_; ++r) sums[r] = empty_sum(memory, r, values);

        by_tiles(chunk, [&](Range tile, Range seen) {
            float* scores = weights_ + (tile.from - start);
            load_keys(k, tile, seen);
            by_blocks<kFloatRows>(count_, [&](auto block, size_t r) {
                score<block.rows>(q_ + r * size, keys_, size, scores + r * kWeightStride);
            });
        });
        if (soft_cap_ != 0.0f) {
            for (size_t r = 0; r < count_; ++r)
                cap_scores(weights_ + r * kWeightStride, {chunk.from - start, chunk.to - start}, 1.0f, soft_cap_);
        }
        by_blocks<kFloatRows>(count_, [&](auto block, size_t r) {
            weigh<block.rows>(weights_ + r * kWeightStride, sees_ + r, {start, start + kKeyChunk}, sums + r);
        });
        by_tiles(chunk, [&](Range tile, Range seen) {
            const float* weights = weights_ + (tile.from - start);
            v.read({tile.from + seen.from, tile.from + seen.to}, rows_ + seen.from * padded(values));
            by_blocks<kFloatRows>(count_, [&](auto block, size_t r) {
                add_seen_values<block.rows>(sees_ + r, sums + r, weights + r * kWeightStride, rows_, tile,
                                            padded(values));
            });
        });
    }

  private:
    // scores (Rows, kWeightStride) of a tile: q (size, Rows) · keys (size, kKeyTile)
    template <size_t Rows>
    static void score(const float* q, const float* keys, size_t size, float* scores) {
        constexpr size_t kVectors = kFloatVectors<Rows>;
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
                float* to = scores + r * kWeightStride + at;
                for (size_t c = 0; c < kVectors; ++c) sums[r][c].store(to + c * Vec::width);
            }
        }
    }

    // Turn these rows' scores of the keys of a chunk that each sees into weights relative to the highest of them.
    template <size_t Rows>
    static void weigh(float* scores, const Range* sees, Range chunk, const Sum* sums) {
        Range vectors[Rows];
        for (size_t r = 0; r < Rows; ++r) {
            float* row = scores + r * kWeightStride;
            const Range seen = part_of(sees[r], chunk);
            vectors[r] = {seen.from / Vec::width * Vec::width, padded(seen.to)};
            for (size_t i = vectors[r].from; i < seen.from; ++i) row[i] = -__builtin_inff();
            for (size_t i = seen.to; i < vectors[r].to; ++i) row[i] = -__builtin_inff();
            Vec tops = Vec::all(-__builtin_inff());
            for (size_t i = vectors[r].from; i < vectors[r].to; i += Vec::width) {
                tops = Vec::max(tops, Vec::load(row + i));
            }
            *sums[r].highest = tops.largest();
        }
        // The hidden keys' 2⁻¹²⁵ each are lost in rounding: the total is at least the 1 of the highest score.
        for (size_t r = 0; r < Rows; ++r) {
            float* row = scores + r * kWeightStride;
            const Vec highest = Vec::all(*sums[r].highest);
            Vec totals = Vec::zero();
            for (size_t i = vectors[r].from; i < vectors[r].to; i += Vec::width) {
                const Vec weights = exp2(Vec::load(row + i) - highest);
                weights.store(row + i);
                totals = totals + weights;
            }
            *sums[r].total = totals.sum();
        }
    }

    // sums of `Rows` rows += weights · values (keys, size) over these keys, for the dimensions from d on; size: padded
    template <size_t Rows, size_t Vectors = kFloatVectors<Rows>>
    static void add_values(const Sum* sums, const float* weights, const float* values, Range keys, size_t size,
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
    static void add_seen_values(const Range* sees, const Sum* sums, const float* weights, const float* values,
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

    // keys (size, kKeyTile) = the transposed rows of these positions of the tile; the others' columns mean nothing.
    void load_keys(const CachedRows& k, Range tile, Range seen) {
        const float* rows[Vec::width];
        for (size_t r = 0; r < Vec::width; ++r) rows[r] = rows_ + r * padded(k.size);
        by_vectors(seen, [&](size_t first, Range part) {
            const size_t at = tile.from + first;
            k.read({at + part.from, at + part.to}, rows_ + part.from * padded(k.size));
            transpose(rows, (k.size + 3) / 4 * 4, keys_ + first, kKeyTile);
        });
    }

    size_t count_;
    float scale_, soft_cap_;
    Range sees_[kQueryTile];                           // positions
    alignas(64) float q_[kQueryTile * MaxHead];       // scaled; (size, n) for each block of n
    alignas(64) float rows_[kKeyTile * MaxHead];      // keys or values of a tile, as they are cached
    alignas(64) float keys_[MaxHead * kKeyTile];      // (size, kKeyTile)
    alignas(64) float weights_[kQueryTile * kWeightStride];  // of the chunk; scores at first
};

}  // namespace rowspan::ROWSPAN_ISA
