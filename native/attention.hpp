// Paged causal attention: online softmax over tiles of keys (Dao et al. 2022, FlashAttention).
//
// A row's bits depend on its position and its own data alone, not on its chunk, its neighbours or the instance that
// computes it: tile borders are absolute positions, a score is one chain of fused multiply-adds over the dimensions, an
// output element one over the keys, and no product stands where a compiler may or may not fuse it into an addition.
// Only what some row sees is read, since an unwritten slot may hold NaN; and no row meets what it does not see itself.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"
#include "transpose.hpp"
#include "vector_math.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t KEY_TILE = 64;    // keys per tile
constexpr size_t QUERY_TILE = 64;  // rows per task: enough to make up for transposing the keys
constexpr size_t MAX_HEAD = 256;   // elements per head that the buffers have room for: callers refuse more

// Vectors per row in registers, of a block of up to 4 rows: enough to keep the arithmetic busy, with room for operands.
template <size_t ROWS>
constexpr size_t ROW_VECTORS = Vec::width == 16 ? 4 : ROWS == 1 ? 8 : ROWS == 2 ? 4 : 2;

struct Range {
    size_t from, to;
};

inline size_t lower(size_t a, size_t b) { return a < b ? a : b; }
inline size_t higher(size_t a, size_t b) { return a < b ? b : a; }

// One token's query in one head.
struct QueryRow {
    const float* q;
    float* out;     // the weighted sum of the values so far
    Range sees;     // positions
    float highest;  // score so far
    float total;    // of the weights so far
};

// One tile of the keys and values that a task sees.
struct KeyValueTile {
    size_t start;                                 // position of its first key
    const float* values[KEY_TILE];                // rows in the cache, null where no row of the task sees anything
    alignas(64) float keys[MAX_HEAD * KEY_TILE];  // (size, KEY_TILE), zero there
};

// The part of the tile that lies in these positions; from == to if none.
inline Range part_of_tile(Range positions, size_t start) {
    const size_t from = higher(positions.from, start) - start;
    const size_t to = higher(positions.to, start) - start;
    return {lower(from, KEY_TILE), lower(to, KEY_TILE)};
}

// scores (ROWS, KEY_TILE) = q · keys
template <size_t ROWS>
inline void score(const QueryRow* rows, const float* keys, size_t size, float* scores) {
    constexpr size_t VECTORS = ROW_VECTORS<ROWS>;
    for (size_t at = 0; at < KEY_TILE; at += VECTORS * Vec::width) {
        Vec sums[ROWS][VECTORS];
        for (auto& row : sums) {
            for (Vec& sum : row) sum = Vec::zero();
        }
        for (size_t d = 0; d < size; ++d) {
            for (size_t r = 0; r < ROWS; ++r) {
                const Vec q = Vec::all(rows[r].q[d]);
                for (size_t c = 0; c < VECTORS; ++c) {
                    sums[r][c] = Vec::fma(q, Vec::load(keys + d * KEY_TILE + at + c * Vec::width), sums[r][c]);
                }
            }
        }
        for (size_t r = 0; r < ROWS; ++r) {
            for (size_t c = 0; c < VECTORS; ++c) sums[r][c].store(scores + r * KEY_TILE + at + c * Vec::width);
        }
    }
}

// Turn a row's scores into weights relative to the highest score so far; what was summed up before shrinks to match.
inline void weigh(QueryRow& row, Range seen, float scale, size_t size, float* scores) {
    for (size_t i = 0; i < seen.from; ++i) scores[i] = -__builtin_inff();
    for (size_t i = seen.to; i < KEY_TILE; ++i) scores[i] = -__builtin_inff();

    Vec tops = Vec::all(row.highest);
    for (size_t i = 0; i < KEY_TILE; i += Vec::width) tops = Vec::max(tops, Vec::load(scores + i));
    const float highest = tops.largest();

    // The hidden keys' e⁻⁸⁷ each are lost in rounding: the total is at least the 1 of the highest score.
    Vec totals = Vec::zero();
    for (size_t i = 0; i < KEY_TILE; i += Vec::width) {
        const Vec weights = exp((Vec::load(scores + i) - Vec::all(highest)) * Vec::all(scale));
        weights.store(scores + i);
        totals = totals + weights;
    }
    if (highest == row.highest) {
        row.total += totals.sum();
        return;
    }
    float shrink[Vec::width];
    exp((Vec::all(row.highest) - Vec::all(highest)) * Vec::all(scale)).store(shrink);
    row.total = __builtin_fmaf(row.total, shrink[0], totals.sum());
    for (size_t d = 0; d < size; ++d) row.out[d] *= shrink[0];
    row.highest = highest;
}

// out += weights · values over these keys of the tile, for the dimensions from d on
template <size_t ROWS, size_t VECTORS = ROW_VECTORS<ROWS>>
inline void add_values(const QueryRow* rows, const float* weights, const float* const* values, Range keys, size_t size,
                       size_t d = 0) {
    if (keys.from >= keys.to) return;
    for (; d + VECTORS * Vec::width <= size; d += VECTORS * Vec::width) {
        Vec sums[ROWS][VECTORS];
        for (size_t r = 0; r < ROWS; ++r) {
            for (size_t c = 0; c < VECTORS; ++c) sums[r][c] = Vec::load(rows[r].out + d + c * Vec::width);
        }
        for (size_t key = keys.from; key < keys.to; ++key) {
            const float* value = values[key] + d;
            for (size_t r = 0; r < ROWS; ++r) {
                const Vec weight = Vec::all(weights[r * KEY_TILE + key]);
                for (size_t c = 0; c < VECTORS; ++c) {
                    sums[r][c] = Vec::fma(weight, Vec::load(value + c * Vec::width), sums[r][c]);
                }
            }
        }
        for (size_t r = 0; r < ROWS; ++r) {
            for (size_t c = 0; c < VECTORS; ++c) sums[r][c].store(rows[r].out + d + c * Vec::width);
        }
    }
    if constexpr (VECTORS > 1) {
        add_values<ROWS, VECTORS / 2>(rows, weights, values, keys, size, d);
    } else {
        for (; d < size; ++d) {
            for (size_t r = 0; r < ROWS; ++r) {
                float sum = rows[r].out[d];
                for (size_t key = keys.from; key < keys.to; ++key) {
                    sum = __builtin_fmaf(weights[r * KEY_TILE + key], values[key][d], sum);
                }
                rows[r].out[d] = sum;
            }
        }
    }
}

// weights (ROWS, KEY_TILE) of the tile's keys for these rows.
template <size_t ROWS>
inline void weigh_keys(QueryRow* rows, const KeyValueTile& tile, size_t size, float scale, float* weights) {
    score<ROWS>(rows, tile.keys, size, weights);
    for (size_t r = 0; r < ROWS; ++r) {
        const Range seen = part_of_tile(rows[r].sees, tile.start);
        if (seen.from < seen.to) weigh(rows[r], seen, scale, size, weights + r * KEY_TILE);
    }
}

// out += weights · values for these rows: the keys that all of them see together, what lies before and after for each
// alone, in the keys' order for each.
template <size_t ROWS>
inline void add_seen_values(const QueryRow* rows, const KeyValueTile& tile, size_t size, const float* weights) {
    Range seen[ROWS];
    Range by_all = {0, KEY_TILE};
    for (size_t r = 0; r < ROWS; ++r) {
        seen[r] = part_of_tile(rows[r].sees, tile.start);
        by_all = {higher(by_all.from, seen[r].from), lower(by_all.to, seen[r].to)};
    }
    by_all.to = higher(by_all.from, by_all.to);

    for (size_t r = 0; r < ROWS; ++r) {
        const Range before = {seen[r].from, lower(seen[r].to, by_all.from)};
        add_values<1>(rows + r, weights + r * KEY_TILE, tile.values, before, size);
    }
    add_values<ROWS>(rows, weights, tile.values, by_all, size);
    for (size_t r = 0; r < ROWS; ++r) {
        const Range after = {higher(seen[r].from, by_all.to), seen[r].to};
        add_values<1>(rows + r, weights + r * KEY_TILE, tile.values, after, size);
    }
}

template <size_t ROWS>
struct Rows {
    static constexpr size_t count = ROWS;
};

// Call block(Rows<n>, r) for rows r … r + n - 1, until all are done.
template <typename Block>
inline void by_blocks(size_t n_rows, Block block) {
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4) block(Rows<4>(), r);
    if (n_rows - r == 3) block(Rows<3>(), r);
    if (n_rows - r == 2) block(Rows<2>(), r);
    if (n_rows - r == 1) block(Rows<1>(), r);
}

// One sequence's cache in one KV head.
struct CachedHead {
    const float* k;  // of slot 0
    const float* v;
    const int64_t* slots;
    size_t slot_elements;  // from one slot to the next
    size_t size;

    const float* key(size_t position) const { return k + static_cast<size_t>(slots[position]) * slot_elements; }
    const float* value(size_t position) const { return v + static_cast<size_t>(slots[position]) * slot_elements; }

    // Asking for a tile's values before its scores, and for the next tile's keys before this one's arithmetic, measured
    // 5 to 10 % on one token's attention to a cache in main memory (and loses some where it sits in the last cache).
    void prefetch(const float* row) const {
        for (size_t d = 0; d < size; d += 64 / sizeof(float)) __builtin_prefetch(row + d, 0, 2);
    }
};

// Load the tile at tile.start, as far as it lies in the positions that some row of the task sees.
inline void load_tile(const CachedHead& head, Range positions, KeyValueTile& tile) {
    const float unseen[MAX_HEAD] = {};
    const Range seen = part_of_tile(positions, tile.start);
    const float* keys[KEY_TILE];
    for (size_t i = 0; i < KEY_TILE; ++i) {
        const bool is_seen = seen.from <= i && i < seen.to;
        keys[i] = is_seen ? head.key(tile.start + i) : unseen;
        tile.values[i] = is_seen ? head.value(tile.start + i) : nullptr;
    }
    for (size_t i = 0; i < KEY_TILE; i += Vec::width) {
        for (size_t j = higher(i, seen.from); j < lower(i + Vec::width, seen.to); ++j) head.prefetch(tile.values[j]);
        transpose(keys + i, head.size, tile.keys + i, KEY_TILE);
    }
}

inline size_t query_tiles(const Attention& work) { return (work.tokens * work.group + QUERY_TILE - 1) / QUERY_TILE; }

// A task is one sequence, one of its KV heads and one tile of the rows that share this head.
inline size_t attention_tasks(const Attention& work) { return work.sequences * work.kv_heads * query_tiles(work); }

inline void attention_task(const Attention& work, size_t sequence, size_t kv_head, size_t query_tile) {
    const size_t first = query_tile * QUERY_TILE;
    const size_t n_rows = lower(work.tokens * work.group - first, QUERY_TILE);
    QueryRow rows[QUERY_TILE];
    for (size_t r = 0; r < n_rows; ++r) {
        const size_t token = (first + r) / work.group;
        const size_t head = kv_head * work.group + (first + r) % work.group;
        const size_t at = ((sequence * work.tokens + token) * work.kv_heads * work.group + head) * work.size;
        const size_t end = static_cast<size_t>(work.first_positions[sequence]) + token + 1;
        const size_t begin = work.window != 0 && end > work.window ? end - work.window : 0;
        rows[r] = {work.q + at, work.out + at, {begin, end}, -__builtin_inff(), 0.0f};
        for (size_t d = 0; d < work.size; ++d) rows[r].out[d] = 0.0f;
    }

    const CachedHead head = {work.k + kv_head * work.size, work.v + kv_head * work.size,
                             work.slots + sequence * work.slot_stride, work.kv_heads * work.size, work.size};
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(work.size));
    const Range sees = {rows[0].sees.from, rows[n_rows - 1].sees.to};
    alignas(64) float weights[QUERY_TILE * KEY_TILE];
    KeyValueTile tile;
    for (tile.start = sees.from / KEY_TILE * KEY_TILE; tile.start < sees.to; tile.start += KEY_TILE) {
        load_tile(head, sees, tile);
        for (size_t i = tile.start + KEY_TILE; i < lower(tile.start + 2 * KEY_TILE, sees.to); ++i) {
            head.prefetch(head.key(i));
        }
        // Keys first, then values, for all rows: each half of the tile fits the first cache, both do not.
        by_blocks(n_rows, [&](auto block, size_t r) {
            weigh_keys<block.count>(rows + r, tile, work.size, scale, weights + r * KEY_TILE);
        });
        by_blocks(n_rows, [&](auto block, size_t r) {
            add_seen_values<block.count>(rows + r, tile, work.size, weights + r * KEY_TILE);
        });
    }
    for (size_t r = 0; r < n_rows; ++r) {
        for (size_t d = 0; d < work.size; ++d) rows[r].out[d] /= rows[r].total;
    }
}

inline void attention(const Attention& work, size_t first, size_t last) {
    const size_t tiles = query_tiles(work);
    for (size_t task = first; task < last; ++task) {
        // Late tiles see more than early ones: taking them in turns makes equal shares of tasks equal shares of work.
        const size_t turn = task % tiles;
        const size_t query_tile = turn % 2 == 0 ? turn / 2 : tiles - 1 - turn / 2;
        attention_task(work, task / tiles / work.kv_heads, task / tiles % work.kv_heads, query_tile);
    }
}

}  // namespace rowspan::ROWSPAN_ISA
