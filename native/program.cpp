#include "program.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace rowspan {

namespace {

void check(const CacheSide& side) {
    const auto require = [&](bool fits, const std::string& what) {
        if (!fits) throw std::invalid_argument("heads of " + std::to_string(side.size) + " elements: " + what);
    };
    require(side.size <= kMaxHead, "there is room for " + std::to_string(kMaxHead));
    const bool tiled = side.type == CacheType::i16_keys || side.type == CacheType::i16_values;
    require(side.type != CacheType::q8_0 || side.size % kCodesPerScale == 0, "q8_0 takes whole groups of 32");
    require(!tiled || side.size % kTileRows == 0, "int16 takes whole groups of 16");
}

}  // namespace

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
                table.format->dequantize_row(table.blocks + at * table.stride, table.columns, to);
            else
                std::fill(to, to + table.columns, 0.0f);
        }
    });
}

void Program::select(BatchDim dim, const float* x, size_t width, float* out) {
    by_rows(dim, [this, dim, x, width, out](Range rows) {
        const int64_t* chosen = dim == BatchDim::outputs ? step_.output_rows : step_.logit_rows;
        for (size_t row = rows.from; row < rows.to; ++row) {
            const size_t from = chosen ? static_cast<size_t>(chosen[row]) : row;
            std::memcpy(out + row * width, x + from * width, width * sizeof(float));
        }
    });
}

void Program::add(BatchDim rows, const float* a, const float* b, size_t width, float* out) {
    by_rows(rows, [=](Range part) {
        const float* const parts[] = {a, b};
        kernels_.sum(parts, 2, out, {part.from * width, part.to * width});
    });
}

void Program::gated(BatchDim rows, Activation activation, const float* gate, const float* up, size_t width, float* out) {
    by_rows(rows,
            [=](Range part) { kernels_.gated(activation, gate, up, out, {part.from * width, part.to * width}); });
}

void Program::activate(BatchDim rows, Activation activation, const float* x, size_t width, float* out) {
    by_rows(rows, [=](Range part) { kernels_.activate(activation, x, out, {part.from * width, part.to * width}); });
}

void Program::scale(BatchDim rows, const float* x, float factor, size_t width, float* out) {
    by_rows(rows, [=](Range part) { kernels_.scale(x, factor, out, {part.from * width, part.to * width}); });
}

void Program::soft_cap(BatchDim rows, const float* x, float cap, size_t width, float* out) {
    by_rows(rows, [=](Range part) { kernels_.soft_cap(x, cap, out, {part.from * width, part.to * width}); });
}

void Program::rms_norm(BatchDim rows, const float* x, const float* weight, float eps, size_t heads, size_t width,
                       float* out) {
    by_rows(rows, [=](Range part) {
        kernels_.rms_norm(x, weight, eps, width, out, {part.from * heads, part.to * heads});
    });
}

void Program::layer_norm(BatchDim rows, const float* x, const float* weight, const float* bias, float eps, size_t width,
                         float* out) {
    by_rows(rows, [=](Range part) { kernels_.layer_norm(x, weight, bias, eps, width, out, part); });
}

void Program::add_by_position(const float* x, const float* table, size_t n_rows, size_t width, float* out) {
    by_rows(BatchDim::tokens, [=](Range part) {
        for (size_t row = part.from; row < part.to; ++row) {
            const size_t at = std::min(static_cast<size_t>(positions_[row]), n_rows - 1);
            const float* const parts[] = {x + row * width, table + at * width};
            kernels_.sum(parts, 2, out + row * width, {0, width});
        }
    });
}

void Program::scale_by_position(const float* x, const float* factors, size_t width, float* out) {
    by_rows(BatchDim::tokens, [=](Range part) {
        for (size_t row = part.from; row < part.to; ++row)
            kernels_.scale(x + row * width, factors[positions_[row]], out + row * width, {0, width});
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

void Program::mixture(BatchDim rows, const float* x, const float* logits, const Mixture& op, float* out) {
    const Mixture& kept = mixtures_.emplace_back(rows, op).second;
    Tasks& gate_up = tasks_.emplace_back(pool_.threads(), begun_);
    Tasks& down = tasks_.emplace_back(pool_.threads(), begun_);
    record([=, this, &kept, &gate_up, &down](const Team& team) {
        mixture_scratch_.run(kernels_, kept, x, logits, count(rows), out, team, gate_up, down);
    });
}

void Program::gate_rows(BatchDim rows, const float* x, const float* gate, size_t width, float* out) {
    by_rows(rows, [=](Range part) {
        for (size_t row = part.from; row < part.to; ++row)
            kernels_.scale(x + row * width, 1.0f / (1.0f + std::exp(-gate[row])), out + row * width, {0, width});
    });
}

void Program::split_heads(BatchDim rows, const float* x, size_t heads, size_t size, Range part, float* out) {
    const size_t count = part.to - part.from;
    by_rows(rows, [=](Range mine) {
        for (size_t head = mine.from * heads; head < mine.to * heads; ++head)
            std::memcpy(out + head * count, x + head * size + part.from, count * sizeof(float));
    });
}

void Program::join_heads(BatchDim rows, const float* a, const float* b, size_t heads, size_t a_size, size_t b_size,
                         float* out) {
    by_rows(rows, [=](Range mine) {
        for (size_t head = mine.from * heads; head < mine.to * heads; ++head) {
            float* const to = out + head * (a_size + b_size);
            std::memcpy(to, a + head * a_size, a_size * sizeof(float));
            std::memcpy(to + a_size, b + head * b_size, b_size * sizeof(float));
        }
    });
}

// A task is a head: one thread gathers its rows, packs and multiplies them.
void Program::head_linear(BatchDim rows, Form form, const float* x, const ExpertMatrices& matrices, size_t heads,
                          float* out) {
    const size_t columns = matrices.all.columns, width = heads * matrices.rows;
    head_products_.push_back({rows, form, columns});
    Tasks& tasks = tasks_.emplace_back(pool_.threads(), begun_);
    record([=, this, &tasks](const Team& team) {
        const size_t tokens = count(rows), tile = kernels_.token_tile;
        const Products& products = kernels_.products(form);
        char* const packed = first_line(head_packed_[team.index]);
        float* const gathered = head_rows_[team.index].data();
        tasks.run(team, heads, [&](size_t head) {
            for (size_t token = 0; token < tokens; ++token)
                std::memcpy(gathered + token * columns, x + (token * heads + head) * columns, columns * sizeof(float));
            products.pack(gathered, tokens, columns, packed, {0, (tokens + tile - 1) / tile});
            const Matrix w = matrices.part(head, {0, matrices.panels()});
            Barrier barrier;
            uint32_t step = 1;
            Tasks own(1, step);
            products.linear(packed, tokens, {w, nullptr, {}, nullptr, nullptr, nullptr, out + head * matrices.rows, width},
                            Team{0, 1, barrier}, own);
        });
    });
}

void Program::rope(const float* x, const float* cos, const float* sin, const RopeShape& shape, float* out) {
    by_rows(BatchDim::tokens, [=](Range rows) {
        kernels_.rope(x, cos, sin, positions_.data(), shape.heads, shape.size, shape.half, shape.interleaved, out, rows);
    });
}

void Program::write_cache(const float* x, const CacheSide& side, size_t table) {
    check(side);
    tables_ = std::max(tables_, table + 1);
    by_rows(BatchDim::tokens, [=](Range rows) { kernels_.write_cache(x, cache_slots_[table].data(), side, rows); });
}

void Program::attention(BatchDim rows, const float* q, const Heads& heads, const AttentionOptions& options, bool exact,
                        float* out) {
    check(heads.k);
    check(heads.v);
    if (heads.k.kv_heads != heads.v.kv_heads || heads.k.slots != heads.v.slots)
        throw std::invalid_argument("keys and values are not of the same heads and slots");
    tables_ = std::max(tables_, heads.table + 1);
    const auto work = [=] {
        const bool all = rows == BatchDim::tokens;
        return Attention{q,
                         out,
                         heads.k,
                         heads.v,
                         step_.sequences,
                         all ? step_.starts : output_starts_.data(),
                         all ? step_.first_positions : output_first_positions_.data(),
                         step_.tables[heads.table],
                         heads.group,
                         options};
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
    if (step.tables.size() < tables_) throw std::invalid_argument("a kind of cache has no table of blocks");
    step_ = step;
    ++begun_;
    positions_.clear();
    cache_slots_.resize(step.tables.size());
    for (std::vector<int64_t>& slots : cache_slots_) slots.clear();
    output_starts_.assign(1, 0);
    output_first_positions_.clear();
    for (size_t sequence = 0, output = 0; sequence < step.sequences; ++sequence) {
        const int64_t start = step.starts[sequence], end = step.starts[sequence + 1];
        const int64_t first = step.first_positions[sequence];
        const auto last = static_cast<size_t>(first + end - start - 1);
        for (int64_t row = start; row < end; ++row) positions_.push_back(first + row - start);
        for (size_t kind = 0; kind < step.tables.size(); ++kind) {
            const BlockTable table = step.tables[kind].of(sequence);
            if (start < end && last / table.size >= step.tables[kind].stride)
                throw std::invalid_argument("a sequence goes on behind its last block");
            for (int64_t row = start; row < end; ++row)
                cache_slots_[kind].push_back(static_cast<int64_t>(table.slot(static_cast<size_t>(first + row - start))));
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
    for (const HeadScratch& product : head_products_) {
        const size_t tokens = count(product.rows);
        const size_t bytes = kernels_.products(product.form).bytes(tokens, product.columns) + 2 * kLine;
        for (auto& packed : head_packed_) packed.resize(std::max(packed.size(), bytes));
        for (auto& gathered : head_rows_) gathered.resize(std::max(gathered.size(), tokens * product.columns));
    }
    for (const auto& [rows, mixture] : mixtures_) mixture_scratch_.reserve(kernels_, mixture, count(rows));
}

void Program::run(size_t segment) {
    const std::vector<Call>& calls = segments_.at(segment);
    const Progress progress{progress_};
    pool_.run([&](const Team& each) {
        const Team team = {each.index, each.count, each.barrier, progress_ && !each.index ? &progress : nullptr};
        for (const Call& call : calls) {
            call(team);
            if (team.progress) team.progress->call_done();
        }
    });
    if (segment + 1 == segments_.size()) ++steps_;
}

}  // namespace rowspan
