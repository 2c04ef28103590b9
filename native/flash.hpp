// What both kinds of attention's arithmetic share: how keys are cut into chunks and tiles and rows into blocks, and how
// the chunks' sums become one (Dao et al. 2022, FlashAttention). FloatFlash (flash_float.hpp) computes a chunk in
// float32, Int16Flash (flash_int16.hpp) in 16-bit integers, BfloatFlash (flash_bf16.hpp) in tiles of bfloat16.
#pragma once

#include "cache_rows.hpp"
#include "each.hpp"
#include "kernels.hpp"
#include "nonlinear.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kUsualHead = 256;  // elements; in buffers for larger heads such are slower by 3 to 8 %
constexpr size_t kKeyChunk = 256;  // keys per softmax; chunks begin at multiples of it
constexpr size_t kKeyTile = 64;    // keys in the first cache at a time
constexpr size_t kQueryTile = 128;  // rows at most: enough to make up for converting and transposing the keys

// Weights of one row and those of the next: a power of two would put a tile's into a few sets of the first cache.
constexpr size_t kWeightStride = kKeyChunk + 16;

// The positions that both hold, relative to the second's start; from == to if none.
inline Range part_of(Range positions, Range of) {
    const size_t from = lower(higher(positions.from, of.from), of.to);
    return {from - of.from, higher(from, lower(positions.to, of.to)) - of.from};
}

// Of one sequence and KV head, the positions of a chunk that some row sees.
struct Chunk {
    CachedRows k, v;
    Range positions;
};

// The weighted sum of the values that one row sees, in one chunk or in all so far.
struct Sum {
    float* values;   // (padded size)
    float* highest;  // score: weights are powers of 2, relative to its own
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
    const Vec shrink = exp2(Vec::all(*sum.highest - highest)), weight = exp2(Vec::all(*chunk.highest - highest));
    for (size_t d = 0; d < padded(size); d += Vec::width) {
        Vec::fma(weight, Vec::load(chunk.values + d), shrink * Vec::load(sum.values + d)).store(sum.values + d);
    }
    float totals[Vec::width];
    Vec::fma(weight, Vec::all(*chunk.total), shrink * Vec::all(*sum.total)).store(totals);
    *sum.total = totals[0];
    *sum.highest = highest;
}

// Let one more score take part in a softmax, of a key without a value.
inline void add_sink(const Sum& sum, float score, size_t size) {
    const float highest = *sum.highest < score ? score : *sum.highest;
    const Vec shrink = exp2(Vec::all(*sum.highest - highest)), weight = exp2(Vec::all(score - highest));
    for (size_t d = 0; d < padded(size); d += Vec::width) (shrink * Vec::load(sum.values + d)).store(sum.values + d);
    float totals[Vec::width];
    Vec::fma(shrink, Vec::all(*sum.total), weight).store(totals);
    *sum.total = totals[0];
    *sum.highest = highest;
}

// Cap the scores of these keys, which `scale` makes of what is there.
inline void cap_scores(float* scores, Range keys, float scale, float cap) {
    for (size_t i = keys.from / Vec::width * Vec::width; i < keys.to; i += Vec::width)
        soft_capped(Vec::load(scores + i), scale, cap).store(scores + i);
}

// Call visit(Block<n>, r) for rows r … r + n - 1, at most so many at a time, until all are done.
template <size_t Most, typename Visit>
inline void by_blocks(size_t n_rows, Visit visit) {
    for (size_t r = 0; r < n_rows; r += Most) visit_block<Most>(n_rows - r, r, visit);
}

// Call visit(tile, seen) for each tile of keys that the chunk reaches into; seen: the part of it, relative to its start.
template <typename Visit>
inline void by_tiles(Range chunk, Visit visit) {
    for (size_t at = chunk.from / kKeyTile * kKeyTile; at < chunk.to; at += kKeyTile) {
        const Range tile = {at, at + kKeyTile};
        visit(tile, part_of(chunk, tile));
    }
}

// Call visit(first, rows) for each so many keys, a vector of them, from `first` on, of which `rows`, relative to it, are
// seen.
template <size_t Length = Vec::width, typename Visit>
inline void by_vectors(Range seen, Visit visit) {
    for (size_t first = seen.from / Length * Length; first < seen.to; first += Length) {
        visit(first, part_of(seen, {first, first + Length}));
    }
}

// pairs (Vec::width / 2, stride) of 16-bit elements = neighbouring rows, at least `stride` long, side by side.
template <typename Element>
inline void interleave(const Element* const (&rows)[Vec::width], size_t stride, int32_t* pairs) {
    static_assert(sizeof(Element) == sizeof(int16_t));
    for (size_t r = 0; r < Vec::width; r += 2, pairs += stride) {
        for (size_t d = 0; d < stride; d += Vec::width) {
            Ints::interleaved(reinterpret_cast<const int16_t*>(rows[r] + d),
                              reinterpret_cast<const int16_t*>(rows[r + 1] + d))
                .store(pairs + d);
        }
    }
}

constexpr size_t kTurns = 4;

// Call visit(i, turn, only_seen) for each vector of keys of which some are seen. only_seen(x, other): x for these,
// other for the rest. Neighbours have different turns, 0 … kTurns - 1, so that none need wait for the one before.
template <typename Visit>
inline void by_seen(Range seen, Visit visit) {
    const auto some = [&](size_t i) {
        const Range lanes = part_of(seen, {i, i + Vec::width});
        visit(i, 0, [lanes](Vec x, float other) { return Vec::choose(x, Vec::all(other), lanes.from, lanes.to); });
    };
    const auto all = [](Vec x, float) { return x; };
    size_t i = seen.from / Vec::width * Vec::width;
    if (i < seen.from) {
        some(i);
        i += Vec::width;
    }
    for (; i + kTurns * Vec::width <= seen.to; i += kTurns * Vec::width) {
#pragma GCC unroll 4
        for (size_t turn = 0; turn < kTurns; ++turn) visit(i + turn * Vec::width, turn, all);
    }
    for (; i + Vec::width <= seen.to; i += Vec::width) visit(i, 0, all);
    if (i < seen.to) some(i);
}

// Of the scores of the keys that are seen.
inline float highest_seen(const float* scores, Range seen) {
    Vec tops[kTurns];
    for (Vec& top : tops) top = Vec::all(-__builtin_inff());
    by_seen(seen, [&](size_t i, size_t turn, auto only_seen) {
        tops[turn] = Vec::max(tops[turn], only_seen(Vec::load(scores + i), -__builtin_inff()));
    });
    return Vec::max(Vec::max(tops[0], tops[1]), Vec::max(tops[2], tops[3])).largest();
}

}  // namespace rowspan::ROWSPAN_ISA
