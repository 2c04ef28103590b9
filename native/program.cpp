#include "program.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "pack.hpp"

namespace rowspan {

void Program::record(Call call) { segments_.back().push_back(std::move(call)); }

void Program::barrier() {
    record([](const Team& team) { team.wait(); });
}

void Program::end_segment() { segments_.emplace_back(); }

Range Program::part(BatchDim rows, const Team& team) const {
    const size_t n = count(rows), tile = kernels_.token_tile;
    const Range tiles = team.share((n + tile - 1) / tile);
    return {std::min(n, tiles.from * tile), std::min(n, tiles.to * tile)};
}

template <typename Work>
void Program::by_rows(BatchDim rows, Work work) {
    record([this, rows, work](const Team& team) {
        const Range mine = part(rows, team);
        if (mine.from < mine.to) work(mine);
    });
}

void Program::embedding(const Table& table, float* out) {
    by_rows(BatchDim::tokens, [this, table, out](Range rows) {
        for (size_t row = rows.from; row < rows.to; ++row) {
            const size_t at = static_cast<size_t>(step_.ids[row]) - table.first;  // wraps below the first one
            float* to = out + row * table.columns;
            if (at < table.rows)
                dequantize_row(table.ggml_type, table.blocks + at * table.stride, table.columns, to);
            else
                std::fill(to, to + table.columns, 0.0f);
        }
    });
}

void Program::select(const float* x, size_t width, float* out) {
    by_rows(BatchDim::outputs, [this, x, width, out](Range rows) {
        for (size_t row = rows.from; row < rows.to; ++row)
            std::memcpy(out + row * width, x + static_cast<size_t>(step_.output_rows[row]) * width, width * sizeof(float));
    });
}

void Program::add(BatchDim rows, const float* a, const float* b, size_t width, float* out) {
    by_rows(rows, [=](Range part) {
        const float* const parts[] = {a, b};
        kernels_.sum(parts, 2, out, {part.from * width, part.to * width});
    });
}

void Program::gated_silu(BatchDim rows, const float* gate, const float* up, size_t width, float* out) {
    by_rows(rows, [=](Range part) { kernels_.gated_silu(gate, up, out, {part.from * width, part.to * width}); });
}

void Program::rms_norm(BatchDim rows, const float* x, const float* weight, float eps, size_t heads, size_t width,
                       float* out) {
    by_rows(rows, [=](Range part) {
        kernels_.rms_norm(x, weight, eps, width, out, {part.from * heads, part.to * heads});
    });
}

void Program::pack(BatchDim rows, Form form, const float* x, size_t columns, void* packed) {
    by_rows(rows, [=](Range part) {
        const size_t tile = kernels_.token_tile;
        const Range tiles = {part.from / tile, (part.to + tile - 1) / tile};
        kernels_.products(form).pack(x, count(rows), columns, packed, tiles);
    });
}

void Program::linear(BatchDim rows, Form form, const void* packed, const Linear& op) {
    Tasks& tasks = tasks_.emplace_back(pool_.threads(), begun_);
    record([=, &tasks](const Team& team) { kernels_.products(form).linear(packed, count(rows), op, team, tasks); });
}

void Program::rope(const float* x, const float* cos, const float* sin, const RopeShape& shape, float* out) {
    by_rows(BatchDim::tokens, [=](Range rows) {
        kernels_.rope(x, cos, sin, positions_.data(), shape.heads, shape.size, shape.half, shape.interleaved, out, rows);
    });
}

void Program::write_cache(const float* x, size_t kv_heads, size_t size, const CacheSide& side) {
    by_rows(BatchDim::tokens,
            [=](Range rows) { kernels_.write_cache(x, kv_heads, size, cache_slots_.data(), side, rows); });
}

void Program::attention(BatchDim rows, const float* q, const CacheSide& k, const CacheSide& v, const Heads& heads,
                        bool exact, float* out) {
    const auto work = [=] {
        const bool all = rows == BatchDim::tokens;
        return Attention{q,
                         out,
                         k,
                         v,
                         step_.sequences,
                         all ? step_.starts : output_starts_.data(),
                         all ? step_.first_positions : output_first_positions_.data(),
                         step_.tables,
                         heads.kv_heads,
                         heads.group,
                         heads.size,
                         heads.window};
    };
    attentions_.push_back(work);
    const auto kernel = exact ? kernels_.attention_float : kernels_.attention_rounded;
    Tasks& tasks = tasks_.emplace_back(pool_.threads(), begun_);
    record([=, &tasks](const Team& team) { kernel(work(), scratch_.data(), team, tasks); });
}

size_t Program::exchange(std::function<uint32_t()> sequences) {
    exchanges_.push_back(std::move(sequences));
    first_sequences_.push_back(0);
    return exchanges_.size() - 1;
}

void Program::all_reduce(TPGroup& group, BatchDim rows, const float* x, size_t width, bool contributes,
                         const float* residual, float* out) {
    const size_t index = exchange([=, &group] { return group.sum_sequences(count(rows) * width); });
    record([=, &group](const Team& team) {
        group.all_reduce(first_sequences_[index], x, count(rows) * width, contributes, residual, out, team);
    });
}

void Program::gather(TPGroup& group, BatchDim rows, const float* x, std::vector<size_t> widths, float* whole) {
    const size_t index = exchange([=, &group] { return group.gather_sequences(count(rows), widths); });
    record([=, &group](const Team& team) {
        group.gather(first_sequences_[index], x, count(rows), widths, whole, team);
    });
}

void Program::send(StageLink& link, const float* x, size_t width) {
    record([=, &link](const Team& team) {
        const Range rows = part(BatchDim::tokens, team);
        link.send(steps_, x, {rows.from * width, rows.to * width}, team);
    });
}

void Program::receive(StageLink& link, size_t receiver, size_t width, float* out) {
    record([=, &link](const Team& team) {
        const Range rows = part(BatchDim::tokens, team);
        link.receive(steps_, receiver, out, {rows.from * width, rows.to * width}, team);
    });
}

void Program::begin(const Step& step) {
    step_ = step;
    ++begun_;
    positions_.clear();
    cache_slots_.clear();
    output_starts_.assign(1, 0);
    output_first_positions_.clear();
    for (size_t sequence = 0, output = 0; sequence < step.sequences; ++sequence) {
        const int64_t start = step.starts[sequence], end = step.starts[sequence + 1];
        const int64_t first = step.first_positions[sequence];
        const BlockTable table = step.tables.of(sequence);
        const auto last = static_cast<size_t>(first + end - start - 1);
        if (start < end && last / step.tables.block_size >= step.tables.stride)
            throw std::invalid_argument("a sequence goes on behind its last block");
        for (int64_t row = start; row < end; ++row) {
            positions_.push_back(first + row - start);
            cache_slots_.push_back(static_cast<int64_t>(table.slot(static_cast<size_t>(positions_.back()))));
        }
        const bool any = output < step.outputs && step.output_rows[output] < end;
        output_first_positions_.push_back(any ? first + step.output_rows[output] - start : first);
        while (output < step.outputs && step.output_rows[output] < end) ++output;
        output_starts_.push_back(static_cast<int64_t>(output));
    }
    for (size_t i = 0; i < exchanges_.size(); ++i) {
        first_sequences_[i] = sequence_;
        sequence_ += exchanges_[i]();
    }
    size_t most = scratch_.size();
    for (const auto& work : attentions_) most = std::max(most, kernels_.attention_scratch(work()));
    scratch_.resize(most);
}

void Program::run(size_t segment) {
    const std::vector<Call>& calls = segments_.at(segment);
    pool_.run([&](const Team& team) {
        for (const Call& call : calls) {
            call(team);
            if (progress_ && !team.index) progress_->fetch_add(1, std::memory_order_relaxed);
        }
    });
    if (segment + 1 == segments_.size()) ++steps_;
}

}  // namespace rowspan
