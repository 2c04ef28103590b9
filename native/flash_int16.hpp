// Attention to one chunk of keys in integers: scores, their softmax, the weighted sum of the values.
//
// Rows of q, of keys and values, and of the softmax's weights are 16-bit integers with a scale each (see
// int16_rows.hpp). Sums of their products are exact, so that their order, and with it a row's company, cannot matter;
// and an instruction has twice as many of them as of floats.
#pragma once

#include "flash.hpp"
#include "int16_rows.hpp"
#include "transpose.hpp"
#include "upcoming.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kIntRows = Vec::width == 16 ? 8 : 6;  // at most, computed together

// Vectors per row in registers: enough to keep the arithmetic busy, with room for operands.
template <size_t Rows>
constexpr size_t kIntVectors = Rows == 1 && Vec::width == 8 ? 8 : Rows <= (Vec::width == 16 ? 3 : 2) ? 4 : 2;

constexpr size_t kCodeStride = kKeyChunk + 2 * Vec::width;  // see kWeightStride
static_assert(kKeyChunk <= kMaxRow);                         // a row of weights

// One thread's work on rows that share a sequence and KV head, of so many elements at most.
template <size_t MaxHead>
class Int16Flash {
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
        alignas(64) int16_t codes[MaxHead];
        score_scales_[r] = encode(q, size, kFineCodes, codes) * scale_;
        const size_t pairs = n_words(size) / 2;
        const size_t block = r / kIntRows * kIntRows, n = lower(count_ - block, kIntRows);
        for (size_t p = 0; p < pairs; ++p) {
            __builtin_memcpy(q_ + 2 * (block * pairs + p * n + r - block), codes + 2 * p, 2 * sizeof *codes);
        }
    }

    // sums (count) = softmax(q · keys) · values over one chunk, given as the positions of it that some row sees: of
    // nothing else a scale is used, as an unwritten slot may hold NaN.
    void attend(const Chunk& of, const Chunk& next, float* memory) {
        const auto& [k, v, chunk] = of;
        upcoming_.begin(of, next);
        const size_t words = n_words(k.size), size = v.size, start = chunk.from / kKeyChunk * kKeyChunk;
        by_tiles(chunk, [&](Range tile, Range seen) {
            const size_t at = tile.from - start;
            const int32_t* keys[kSubtiles];
            load_keys(k, tile, seen, keys, key_scales_ + at);
            by_blocks<kIntRows>(count_, [&](auto block, size_t r) {
                score<block.rows>(q_ + r * words, keys, key_scales_ + at, words / 2, r == 0,
                                  weights_ + r * kWeightStride + at);
            });
        });
        by_tiles(chunk, [&](Range tile, Range seen) { load_values(v, tile, seen, tile.from - start); });

        Sum sums[kQueryTile];
        float scales[kQueryTile];
        const Range whole = {start, start + kKeyChunk}, loaded = part_of(chunk, whole);
        for (size_t r = 0; r < count_; ++r) {
            sums[r] = empty_sum(memory, r, size);
            scales[r] = weigh(r, part_of(sees_[r], whole), loaded, sums[r]);
        }
        by_tiles(loaded, [&](Range tile, Range seen) {
            const Range pairs = {(tile.from + seen.from) / 2, (tile.from + seen.to + 1) / 2};
            by_blocks<kIntRows>(count_, [&](auto block, size_t r) {
                add_values<block.rows>(codes_ + r * kCodeStride, pairs, padded(size), scales + r, r == 0, sums + r);
            });
        });
    }

  private:
    static constexpr size_t kSubtiles = kKeyTile / kTileRows, kTilePairs = kTileRows / 2;

    // Where the keys (pairs, kTileRows) of each subtile are, and scales (kKeyTile), of these positions of the tile; what
    // stands for the others means nothing, here and below.
    void load_keys(const CachedRows& k, Range tile, Range seen, const int32_t* (&keys)[kSubtiles], float* scales) {
        const size_t pairs = n_words(k.size) / 2;
        for (const int32_t*& subtile : keys) subtile = keys_;
        by_vectors<kTileRows>(seen, [&](size_t first, Range rows) {
            int32_t* const to = keys_ + first * pairs;
            keys[first / kTileRows] = load(k, tile.from + first, rows, scales + first, to, [&](const int16_t* const* codes) {
                for (size_t r = 0; r < kTileRows; r += Vec::width) {
                    const float* lines[Vec::width];
                    for (size_t i = 0; i < Vec::width; ++i) lines[i] = reinterpret_cast<const float*>(codes[r + i]);
                    transpose(lines, pairs, reinterpret_cast<float*>(to + r), kTileRows);
                }
            });
        });
    }

    // Where the values (pairs of keys, padded) of each subtile of the chunk are, and scales (keys), from `at` on, of these
    // positions.
    void load_values(const CachedRows& v, Range tile, Range seen, size_t at) {
        const size_t stride = padded(v.size);
        by_vectors<kTileRows>(seen, [&](size_t first, Range rows) {
            const size_t key = at + first;
            int32_t* const to = values_ + key / 2 * stride;
            float* const scales = value_scales_ + key;
            subtiles_[key / kTileRows] = load(v, tile.from + first, rows, scales, to, [&](const int16_t* const* codes) {
                for (size_t r = 0; r < kTileRows; r += Vec::width) {
                    const int16_t* lines[Vec::width];
                    for (size_t i = 0; i < Vec::width; ++i) lines[i] = codes[r + i];
                    interleave(lines, stride, to + r / 2 * stride);
                }
            });
        });
    }

    // Where the subtile that begins with a position is, and scales, of these rows of it: in the cache, or else in `to`,
    // where arrange(codes of each row) puts it.
    template <typename Arrange>
    const int32_t* load(const CachedRows& cached, size_t first, Range rows, float* scales, const int32_t* to,
                        Arrange arrange) {
        if (cached.has_tiles()) {
            __builtin_memcpy(scales, cached.tile_scales(first), kTileRows * sizeof *scales);
            return cached.tile(first);
        }
        cached.encode_rows({first + rows.from, first + rows.to}, rows_ + rows.from * MaxHead, MaxHead,
                           scales + rows.from);
        const int16_t* codes[kTileRows];  // in place of rows that are not seen, one that is
        for (size_t r = 0; r < kTileRows; ++r) {
            codes[r] = rows_ + (rows.from <= r && r < rows.to ? r : rows.from) * MaxHead;
        }
        arrange(codes);
        return to;
    }

    // scores (Rows, kWeightStride) of a tile, but for the scale of q: q (pairs, Rows, 2) · keys. leading: of these rows,
    // here and below, that the keys, or values, meet first.
    template <size_t Rows>
    void score(const int16_t* q, const int32_t* const (&keys)[kSubtiles], const float* scales, size_t pairs,
               bool leading, float* scores) {
        constexpr size_t kVectors = kIntVectors<Rows>;
        for (size_t at = 0; at < kKeyTile; at += kVectors * Vec::width) {
            Ints sums[Rows][kVectors];
            for (auto& row : sums) {
                for (Ints& sum : row) sum = Ints::zero();
            }
            const int32_t* from[kVectors];
            for (size_t c = 0; c < kVectors; ++c) {
                const size_t key = at + c * Vec::width;
                from[c] = keys[key / kTileRows] + key % kTileRows;
            }
            for (size_t p = 0; p < pairs; ++p) {
                Ints key[kVectors];
                for (size_t c = 0; c < kVectors; ++c) key[c] = Ints::load(from[c] + p * kTileRows);
                if (leading) upcoming_.ask(kVectors);
#pragma GCC unroll 8
                for (size_t r = 0; r < Rows; ++r) {
                    const Ints element = pair_at(q + 2 * (p * Rows + r));
#pragma GCC unroll 8
                    for (size_t c = 0; c < kVectors; ++c) sums[r][c] = dot_pairs(element, key[c], sums[r][c]);
                }
            }
            for (size_t c = 0; c < kVectors; ++c) {
                const Vec scale = Vec::load(scales + at + c * Vec::width);
                for (size_t r = 0; r < Rows; ++r) {
                    (sums[r][c].to_floats() * scale).store(scores + r * kWeightStride + at + c * Vec::width);
                }
            }
        }
    }

    // Turn a row's scores of the keys of a chunk into weights relative to the highest, and these, each times its
    // value's scale, into codes, 0 for the keys that it does not see. Returns the codes' scale.
    float weigh(size_t r, Range seen, Range loaded, const Sum& sum) {
        float* row = weights_ + r * kWeightStride;
        float score_scale = score_scales_[r];
        if (soft_cap_ != 0.0f) {
            cap_scores(row, seen, score_scale, soft_cap_);
            score_scale = 1.0f;
        }
        *sum.highest = highest_seen(row, seen) * score_scale;
        if (r < kIntRows) upcoming_.ask((seen.to - seen.from) / (Vec::width / 2));  // two lines a vector

        const Vec scale = Vec::all(score_scale), lowered = Vec::all(-*sum.highest);
        Vec totals = Vec::zero(), largest = Vec::zero(), sums = Vec::zero();
        by_seen(seen, [&](size_t i, size_t, auto only_seen) {
            const Vec weights = exp2(Vec::fma(Vec::load(row + i), scale, lowered), kCoarseExp2);
            const Vec scaled = only_seen(weights * Vec::load(value_scales_ + i), 0.0f);
            totals = totals + only_seen(weights, 0.0f);
            largest = Vec::max(largest, scaled);
            sums = sums + scaled;
            scaled.store(row + i);
        });
        *sum.total = totals.sum();

        const float unit = code_scale(largest, sums, kFineCodes);
        const Vec per_unit = Vec::all(codes_per_unit(unit));
        int16_t* codes = codes_ + r * kCodeStride;
        for (size_t i = loaded.from / Vec::width * Vec::width; i < loaded.to; i += Vec::width) {
            Ints::zero().store_words(codes + i);
        }
        by_seen(seen, [&](size_t i, size_t, auto) {
            Ints::rounded(Vec::load(row + i) * per_unit).store_words(codes + i);
        });
        return unit;
    }

    // sums of `Rows` rows += weights · values over these pairs of the chunk, for the dimensions from d on; size: padded
    template <size_t Rows, size_t Vectors = kIntVectors<Rows>>
    void add_values(const int16_t* weights, Range pairs, size_t size, const float* scales, bool leading,
                    const Sum* sums, size_t d = 0) {
        for (; d + Vectors * Vec::width <= size; d += Vectors * Vec::width) {
            Ints totals[Rows][Vectors];
            for (auto& row : totals) {
                for (Ints& total : row) total = Ints::zero();
            }
            for (size_t p = pairs.from; p < pairs.to;) {
                const size_t subtile = p / kTilePairs, end = lower((subtile + 1) * kTilePairs, pairs.to);
                const int32_t* from = subtiles_[subtile] + p % kTilePairs * size + d;
                for (; p < end; ++p, from += size) {
                    Ints value[Vectors];
                    for (size_t c = 0; c < Vectors; ++c) value[c] = Ints::load(from + c * Vec::width);
                    if (leading) upcoming_.ask(Vectors);
#pragma GCC unroll 8
                    for (size_t r = 0; r < Rows; ++r) {
                        const Ints weight = pair_at(weights + r * kCodeStride + 2 * p);
#pragma GCC unroll 8
                        for (size_t c = 0; c < Vectors; ++c) totals[r][c] = dot_pairs(weight, value[c], totals[r][c]);
                    }
                }
            }
            for (size_t r = 0; r < Rows; ++r) {
                const Vec scale = Vec::all(scales[r]);
                for (size_t c = 0; c < Vectors; ++c) {
                    float* values = sums[r].values + d + c * Vec::width;
                    Vec::fma(totals[r][c].to_floats(), scale, Vec::load(values)).store(values);
                }
            }
        }
        if constexpr (Vectors > 1) add_values<Rows, Vectors / 2>(weights, pairs, size, scales, leading, sums, d);
    }

    size_t count_;
    float scale_, soft_cap_;
    Upcoming upcoming_;
    Range sees_[kQueryTile];  // positions
    float score_scales_[kQueryTile];
    alignas(64) int16_t q_[kQueryTile * MaxHead];      // (pairs, n, 2) for each block of n
    const int32_t* subtiles_[kKeyChunk / kTileRows];    // of values
    alignas(64) int16_t rows_[kTileRows * MaxHead];    // codes of keys or values whose cache has none
    alignas(64) int32_t keys_[MaxHead / 2 * kKeyTile];
    alignas(64) int32_t values_[kKeyChunk / 2 * MaxHead];
    alignas(64) float key_scales_[kKeyChunk], value_scales_[kKeyChunk];
    alignas(64) float weights_[kQueryTile * kWeightStride];  // of the chunk; scores at first
    alignas(64) int16_t codes_[kQueryTile * kCodeStride];    // of the weights
};

}  // namespace rowspan::ROWSPAN_ISA
