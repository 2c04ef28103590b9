// Paged attention, shared among threads.
//
// A row's bits depend on its position and its own data alone, not on how its prompt was cut, its neighbours, or the
// number of threads: its context is cut at absolute positions into chunks of keys, and the chunks' sums are added up in
// order by one formula, whether one thread walks over all of them or several share them.
#pragma once

#include "flash_float.hpp"
#include "flash_int16.hpp"
#include "small_ops.hpp"

namespace rowspan::ROWSPAN_ISA {

inline size_t n_rows(const Attention& work, size_t sequence) {
    return static_cast<size_t>(work.starts[sequence + 1] - work.starts[sequence]) * work.group;
}

// The positions that a row sees. Rows of a sequence and KV head: each token's query heads, token after token.
inline Range seen_by(const Attention& work, size_t sequence, size_t row) {
    const size_t first = static_cast<size_t>(work.first_positions[sequence]), window = work.options.window;
    const size_t end = first + row / work.group + 1;
    if (!work.options.causal) {
        const size_t whole = first + n_rows(work, sequence) / work.group, half = window / 2;
        if (window == 0) return {0, whole};
        return {end > half + 1 ? end - half - 1 : 0, lower(end + half, whole)};
    }
    return {window != 0 && end > window ? end - window : 0, end};
}
inline Range seen_by(const Attention& work, size_t sequence, Range rows) {
    return {seen_by(work, sequence, rows.from).from, seen_by(work, sequence, rows.to - 1).to};
}

// A row's index among the heads of all tokens, in q and out.
inline size_t index_of(const Attention& work, size_t sequence, size_t kv_head, size_t row) {
    const size_t token = static_cast<size_t>(work.starts[sequence]) + row / work.group;
    return (token * work.k.kv_heads + kv_head) * work.group + row % work.group;
}

// The part of these positions in their first chunk; none of none.
inline Range first_chunk(Range positions) {
    return {positions.from, lower((positions.from / kKeyChunk + 1) * kKeyChunk, positions.to)};
}

// Call visit(chunk) for the part of these positions in each chunk, in order.
template <typename Visit>
inline void by_chunks(Range positions, Visit visit) {
    while (positions.from < positions.to) {
        const Range chunk = first_chunk(positions);
        visit(chunk);
        positions.from = chunk.to;
    }
}

inline size_t n_chunks(Range positions) {
    return (positions.to + kKeyChunk - 1) / kKeyChunk - positions.from / kKeyChunk;
}

// Whether a sequence's chunks are shared: few rows (one token is the common case) over many keys.
inline bool is_split(const Attention& work, size_t sequence) {
    const size_t rows = n_rows(work, sequence);
    return 0 < rows && rows <= kQueryTile && n_chunks(seen_by(work, sequence, Range{0, rows})) > 1;
}

// Floats of the chunks' sums (kv_heads, chunks, rows) of one sequence.
inline size_t split_floats(const Attention& work, size_t sequence) {
    if (!is_split(work, sequence)) return 0;
    const size_t rows = n_rows(work, sequence);
    return work.k.kv_heads * n_chunks(seen_by(work, sequence, Range{0, rows})) * rows * sum_floats(work.v.size);
}

inline size_t attention_scratch(const Attention& work) {
    size_t floats = 0;
    for (size_t sequence = 0; sequence < work.sequences; ++sequence) floats += split_floats(work, sequence);
    return floats;
}

// What one thread computes alone: rows of one sequence and KV head over these positions.
struct Task {
    size_t sequence, kv_head;
    Range rows, positions;
    float* sums;  // of the one chunk; null: the task is all of these rows' attention

    // In about the time of one row and key: converting and transposing a key takes as long as some rows.
    size_t cost() const { return (positions.to - positions.from) * (rows.to - rows.from + 16); }
};

template <typename Visit>
inline void by_tasks(const Attention& work, float* scratch, Visit visit) {
    for (size_t sequence = 0; sequence < work.sequences; ++sequence) {
        const size_t rows = n_rows(work, sequence);
        if (!is_split(work, sequence)) {
            for (size_t kv_head = 0; kv_head < work.k.kv_heads; ++kv_head) {
                for (size_t from = 0; from < rows; from += kQueryTile) {
                    const Range tile = {from, lower(from + kQueryTile, rows)};
                    visit(Task{sequence, kv_head, tile, seen_by(work, sequence, tile), nullptr});
                }
            }
            continue;
        }
        const Range all = {0, rows}, positions = seen_by(work, sequence, all);
        for (size_t kv_head = 0; kv_head < work.k.kv_heads; ++kv_head) {
            by_chunks(positions, [&](Range chunk) {
                visit(Task{sequence, kv_head, all, chunk, scratch});
                scratch += rows * sum_floats(work.v.size);
            });
        }
    }
}

// Flash: the arithmetic of one chunk.
template <typename Flash>
struct AttentionBuffers {
    Flash flash;
    alignas(64) float chunk_sums[kQueryTile * (Flash::kMaxSize + Vec::width)];
    alignas(64) float sums[kQueryTile * (Flash::kMaxSize + Vec::width)];
};

// What a row's chunks have come to.
inline void write_out(const Attention& work, size_t sequence, size_t kv_head, size_t row, const Sum& sum) {
    const size_t size = work.v.size, at = index_of(work, sequence, kv_head, row) * size;
    const float* const sinks = work.options.sinks;
    const float* const gate = work.options.gate;
    if (sinks) add_sink(sum, sinks[kv_head * work.group + row % work.group] * kLog2E, size);
    float* const out = work.out + at;
    for (size_t d = 0; d < size; ++d) out[d] = sum.values[d] / *sum.total;
    if (!gate) return;
    by_elements({0, size}, out, [&](auto loading) { return loading(out) * sigmoid(loading(gate + at)); });
}

// These positions of a task, of a chunk of keys.
inline Chunk chunk_of(const Attention& work, const Task& task, Range positions) {
    const BlockTable table = work.tables.of(task.sequence);
    return {{work.k, table, task.kv_head}, {work.v, table, task.kv_head}, positions};
}

// after: what is computed next; of no positions if that is not known.
template <typename Flash>
inline void run_task(const Attention& work, const Task& task, const Task& after, AttentionBuffers<Flash>& buffers) {
    Flash& flash = buffers.flash;
    const size_t count = task.rows.to - task.rows.from;
    flash.begin(count, work.options);
    for (size_t r = 0; r < count; ++r) {
        const size_t row = task.rows.from + r;
        flash.set(r, work.q + index_of(work, task.sequence, task.kv_head, row) * work.k.size, work.k.size,
                  seen_by(work, task.sequence, row));
    }
    const auto attend = [&](Range chunk, float* sums) {
        const Range rest = {chunk.to, task.positions.to};
        const bool last = rest.from == rest.to;
        const Chunk next = chunk_of(work, last ? after : task, first_chunk(last ? after.positions : rest));
        flash.attend(chunk_of(work, task, chunk), next, sums);
    };
    if (task.sums) return attend(task.positions, task.sums);

    for (size_t r = 0; r < count; ++r) empty_sum(buffers.sums, r, work.v.size);
    by_chunks(task.positions, [&](Range chunk) {
        attend(chunk, buffers.chunk_sums);
        for (size_t r = 0; r < count; ++r) {
            add_chunk(sum_at(buffers.sums, r, work.v.size), sum_at(buffers.chunk_sums, r, work.v.size), work.v.size);
        }
    });
    for (size_t r = 0; r < count; ++r) {
        write_out(work, task.sequence, task.kv_head, task.rows.from + r, sum_at(buffers.sums, r, work.v.size));
    }
}

// Add up the chunks of the sequences that were split: each thread its share of the rows.
inline void join_chunks(const Attention& work, float* scratch, const Team& team) {
    size_t n = 0;
    for (size_t sequence = 0; sequence < work.sequences; ++sequence) {
        if (is_split(work, sequence)) n += work.k.kv_heads * n_rows(work, sequence);
    }
    const Range share = team.share(n);
    alignas(64) float memory[kMaxHead + Vec::width];
    size_t index = 0;
    for (size_t sequence = 0; sequence < work.sequences; ++sequence) {
        if (!is_split(work, sequence)) continue;
        const size_t rows = n_rows(work, sequence), chunks = n_chunks(seen_by(work, sequence, Range{0, rows}));
        for (size_t i = 0; i < work.k.kv_heads * rows; ++i, ++index) {
            if (index < share.from || share.to <= index) continue;
            const size_t kv_head = i / rows, row = i % rows;
            const Sum sum = empty_sum(memory, 0, work.v.size);
            for (size_t chunk = 0; chunk < chunks; ++chunk) {
                add_chunk(sum, sum_at(scratch, (kv_head * chunks + chunk) * rows + row, work.v.size), work.v.size);
            }
            write_out(work, sequence, kv_head, row, sum);
        }
        scratch += split_floats(work, sequence);
    }
}

template <typename Flash>
inline void attention_with(const Attention& work, float* scratch, const Team& team, Tasks& tasks) {
    size_t total = 0;
    by_tasks(work, scratch, [&](const Task& task) { total += task.cost(); });

    // Shares of equal cost: a task is the thread's in whose share its middle lies. Who is done helps the others.
    AttentionBuffers<Flash> buffers;
    for (const bool own : {true, false}) {
        size_t done = 0, share = team.count, number = 0, taken = 0;
        Task mine{};
        bool pending = false;  // a task waits until the one after it is known, whose keys it asks for
        by_tasks(work, scratch, [&](const Task& task) {
            const size_t middle = done + task.cost() / 2, whose = middle * team.count / total;
            done += task.cost();
            if ((whose == team.index) != own) return;
            if (pending) {
                run_task(work, mine, task, buffers);
                team.task_done();
                taken = tasks.take(share);
                pending = false;
            }
            if (whose != share) {
                share = whose;
                number = 0;
                taken = tasks.take(whose);
            }
            if (number++ != taken) return;
            mine = task;
            pending = true;
        });
        if (pending) run_task(work, mine, Task{}, buffers);
    }
    if (attention_scratch(work) == 0) return;
    team.wait();
    join_chunks(work, scratch, team);
}

// Flash: FloatFlash, Int16Flash or BfloatFlash.
template <template <size_t> class Flash>
inline void attention(const Attention& work, float* scratch, const Team& team, Tasks& tasks) {
    higher(work.k.size, work.v.size) <= kUsualHead ? attention_with<Flash<kUsualHead>>(work, scratch, team, tasks)
                                                   : attention_with<Flash<kMaxHead>>(work, scratch, team, tasks);
}

}  // namespace rowspan::ROWSPAN_ISA
