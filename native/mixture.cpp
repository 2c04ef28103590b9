#include "mixture.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rowspan {

namespace {

constexpr size_t kFewTokens = 16;  // one thread chooses for so many: it takes less than a barrier
constexpr size_t kTasksOfThread = 8;
constexpr size_t kFewestPanels = 4;  // of a task
constexpr float kLeastSum = 6.103515625e-5f;  // weights that are almost zero are not blown up by normalizing

template <typename T>
void make_room(std::vector<T>& array, size_t size) {
    if (array.size() < size) array.resize(size);
}

void score(Gating gating, const float* logits, size_t experts, float* scores) {
    const float largest = *std::max_element(logits, logits + experts);
    float sum = 0.0f;
    for (size_t e = 0; e < experts; ++e) {
        switch (gating) {
            case Gating::softmax: sum += scores[e] = std::exp(logits[e] - largest); break;
            case Gating::sigmoid: scores[e] = 1.0f / (1.0f + std::exp(-logits[e])); break;
            case Gating::softmax_chosen: scores[e] = logits[e]; break;
            case Gating::sqrt_softplus:
                scores[e] = std::sqrt(std::max(logits[e], 0.0f) + std::log1p(std::exp(-std::abs(logits[e]))));
        }
    }
    if (gating == Gating::softmax)
        for (size_t e = 0; e < experts; ++e) scores[e] /= sum;
}

// Lower the ranks of experts outside of the best groups below all others. A group counts as much as its two best.
void keep_best_groups(const Router& router, float* ranks, std::vector<uint8_t>& lost) {
    const size_t each = router.experts / router.groups;
    lost.assign(router.groups, 0);
    for (size_t out = router.groups; out > router.groups_used; --out) {
        size_t worst = router.groups;
        float least = 0.0f;
        for (size_t g = 0; g < router.groups; ++g) {
            if (lost[g]) continue;
            float best = -INFINITY, second = -INFINITY;
            for (size_t e = g * each; e < (g + 1) * each; ++e) {
                if (ranks[e] > best) {
                    second = best;
                    best = ranks[e];
                } else if (ranks[e] > second) {
                    second = ranks[e];
                }
            }
            const float worth = each > 1 ? best + second : best;
            if (worst == router.groups || worth <= least) {
                worst = g;
                least = worth;
            }
        }
        lost[worst] = 1;
    }
    for (size_t e = 0; e < router.experts; ++e)
        if (lost[e / each]) ranks[e] = -INFINITY;
}

}  // namespace

struct MixtureScratch::Work {
    const Kernels& kernels;
    const Mixture& mixture;
    const float* x;
    const float* logits;
    size_t tokens;
    float* out;

    const Products& products() const { return kernels.products(mixture.form); }
    const Products& down_products() const { return kernels.products(mixture.down_form); }
    bool is_fused() const { return mixture.gate && mixture.gate_is_like_up; }
};

MixtureScratch::MixtureScratch(size_t threads) : own_(threads) {}

void MixtureScratch::reserve(const Kernels& kernels, const Mixture& mixture, size_t tokens) {
    const Router& router = mixture.router;
    const size_t slots = tokens * router.used, units = std::min(slots, mixture.held);
    const size_t in_tiles = slots + units * kernels.token_tile;
    make_room(chosen_, slots);
    make_room(weights_, slots);
    make_room(slots_, slots);
    make_room(sources_, slots);
    make_room(starts_, mixture.held + 1);
    units_.reserve(units);
    make_room(packed_, kernels.products(mixture.form).bytes(in_tiles, mixture.columns()) + (units + 1) * 2 * kLine);
    make_room(packed_hidden_,
              kernels.products(mixture.down_form).bytes(in_tiles, mixture.width()) + (units + 1) * 2 * kLine);
    make_room(hidden_, slots * mixture.width());
    if (mixture.gate && !mixture.gate_is_like_up) make_room(second_, slots * mixture.width());
    make_room(results_, slots * mixture.down.rows);
    for (Own& own : own_) {
        make_room(own.scores, router.experts);
        make_room(own.ranks, router.experts);
        make_room(own.tile, kernels.token_tile * mixture.columns());
        own.lost.reserve(router.groups);
    }
}

void MixtureScratch::choose(const Work& work, Range tokens, Own& own) {
    const Router& router = work.mixture.router;
    float *scores = own.scores.data(), *ranks = own.ranks.data();
    for (size_t token = tokens.from; token < tokens.to; ++token) {
        score(router.gating, work.logits + token * router.experts, router.experts, scores);
        for (size_t e = 0; e < router.experts; ++e)
            ranks[e] = router.selection_bias ? scores[e] + router.selection_bias[e] : scores[e];
        if (router.groups > 1) keep_best_groups(router, ranks, own.lost);
        size_t* chosen = chosen_.data() + token * router.used;
        float* weights = weights_.data() + token * router.used;
        size_t n = 0;
        for (size_t e = 0; e < router.experts; ++e) {
            if (n == router.used && !(ranks[e] > ranks[chosen[n - 1]])) continue;
            size_t at = n < router.used ? n++ : n - 1;
            for (; at && ranks[e] > ranks[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
            chosen[at] = e;
        }
        float sum = 0.0f;
        for (size_t i = 0; i < n; ++i) {
            weights[i] = scores[chosen[i]];
            if (router.gating == Gating::softmax_chosen) weights[i] = std::exp(weights[i] - scores[chosen[0]]);
            sum += weights[i];
        }
        if (router.gating == Gating::softmax_chosen)
            for (size_t i = 0; i < n; ++i) weights[i] /= sum;
        else if (router.normalize)
            for (size_t i = 0; i < n; ++i) weights[i] /= std::max(sum, kLeastSum);
        for (size_t i = 0; i < n; ++i) weights[i] *= router.scale * (router.scales ? router.scales[chosen[i]] : 1.0f);
    }
}

void MixtureScratch::group(const Work& work) {
    const Mixture& mixture = work.mixture;
    const size_t choices = work.tokens * mixture.router.used;
    std::fill(starts_.begin(), starts_.begin() + static_cast<ptrdiff_t>(mixture.held + 1), 0);
    const auto held = [&](size_t choice) { return chosen_[choice] - mixture.first; };  // wraps below the first one
    for (size_t choice = 0; choice < choices; ++choice)
        if (held(choice) < mixture.held) ++starts_[held(choice) + 1];
    for (size_t e = 0; e < mixture.held; ++e) starts_[e + 1] += starts_[e];

    units_.clear();
    size_t packed = 0, packed_hidden = 0;
    for (size_t e = 0; e < mixture.held; ++e) {
        const size_t count = starts_[e + 1] - starts_[e];
        if (!count) continue;
        units_.push_back({e, starts_[e], count, packed, packed_hidden});
        // One token is packed once for all its experts, unless each has an input of its own.
        if (work.tokens > 1 || mixture.weighs_input)
            packed += whole_lines(work.products().bytes(count, mixture.columns()));
        packed_hidden += whole_lines(work.down_products().bytes(count, mixture.width()));
    }
    for (size_t choice = 0; choice < choices; ++choice) {
        if (held(choice) >= mixture.held) {
            slots_[choice] = -1;
            continue;
        }
        const size_t slot = starts_[held(choice)]++;  // its next free one
        slots_[choice] = static_cast<int64_t>(slot);
        sources_[slot] = choice;
    }
}

// visit(unit, tile of its tokens) for this thread's part of them.
template <typename Visit>
void MixtureScratch::by_tiles(const Work& work, const Team& team, Visit visit) {
    const auto tiles = [&](const Unit& unit) { return (unit.count + work.kernels.token_tile - 1) / work.kernels.token_tile; };
    size_t all = 0, before = 0;
    for (const Unit& unit : units_) all += tiles(unit);
    const Range mine = team.share(all);
    for (const Unit& unit : units_) {
        const size_t end = before + tiles(unit);
        for (size_t tile = std::max(before, mine.from); tile < std::min(end, mine.to); ++tile) visit(unit, tile - before);
        before = end;
    }
}

void MixtureScratch::pack(const Work& work, const Team& team) {
    const Mixture& mixture = work.mixture;
    const size_t height = work.kernels.token_tile, columns = mixture.columns();
    char* const packed = first_line(packed_);
    if (work.tokens == 1 && !mixture.weighs_input) {
        if (!team.index && !units_.empty()) work.products().pack(work.x, 1, columns, packed, {0, 1});
        return;
    }
    float* const rows = own_[team.index].tile.data();
    by_tiles(work, team, [&](const Unit& unit, size_t tile) {
        const size_t from = tile * height, to = std::min(unit.count, from + height);
        for (size_t i = from; i < to; ++i) {
            const size_t source = sources_[unit.first + i];
            const float* const row = work.x + source / mixture.router.used * columns;
            float* const copy = rows + (i - from) * columns;
            const float weight = mixture.weighs_input ? weights_[source] : 1.0f;
            for (size_t c = 0; c < columns; ++c) copy[c] = row[c] * weight;
        }
        // As if all the unit's rows lay side by side, of which these are the tile's.
        const auto x = reinterpret_cast<uintptr_t>(rows) - from * columns * sizeof(float);
        work.products().pack(reinterpret_cast<const float*>(x), unit.count, columns, packed + unit.packed, {tile, tile + 1});
    });
}

void MixtureScratch::pack_hidden(const Work& work, const Team& team) {
    const Mixture& mixture = work.mixture;
    const size_t height = work.kernels.token_tile, width = mixture.width();
    by_tiles(work, team, [&](const Unit& unit, size_t tile) {
        const size_t from = unit.first + tile * height, to = unit.first + std::min(unit.count, (tile + 1) * height);
        float* const hidden = hidden_.data();
        const Range elements = {from * width, to * width};
        if (!mixture.gate)
            work.kernels.activate(mixture.activation, hidden, hidden, elements);
        else if (!work.is_fused())
            work.kernels.gated(mixture.activation, hidden, second_.data(), hidden, elements);
        work.down_products().pack(hidden + unit.first * width, unit.count, width,
                                  first_line(packed_hidden_) + unit.packed_hidden, {tile, tile + 1});
    });
}

// visit(unit, panels) for all units' `panels` panels, in tasks. A lone token's are shared evenly, which costs nothing.
template <typename Visit>
void MixtureScratch::by_panels(const Work& work, size_t panels, const Team& team, Tasks& tasks, Visit visit) {
    const size_t all = units_.size() * panels;
    Own& own = own_[team.index];
    if (work.tokens == 1) {
        const Range mine = team.share(all);
        for (size_t at = mine.from; at < mine.to;) {
            const size_t unit = at / panels, first = at % panels, end = std::min(panels, first + mine.to - at);
            visit(units_[unit], Range{first, end}, own);
            at += end - first;
        }
        return;
    }
    const size_t fair = all / (team.count * kTasksOfThread);
    const size_t each = std::min(panels, std::max(kFewestPanels, (fair + 1) / 2 * 2));
    const size_t per_unit = each ? (panels + each - 1) / each : 0;
    tasks.run(team, units_.size() * per_unit, [&](size_t task) {
        const size_t first = task % per_unit * each;
        visit(units_[task / per_unit], Range{first, std::min(panels, first + each)}, own);
    });
}

void MixtureScratch::gate_up(const Work& work, const Unit& unit, Range panels, Own& own) {
    const Mixture& mixture = work.mixture;
    const size_t row = panels.from * kPanel, width = mixture.width();
    const auto bias = [&](const float* all) { return all ? all + unit.expert * width + row : nullptr; };
    const auto product = [&](const Linear& op) {
        ++own.calls;
        work.products().linear(first_line(packed_) + unit.packed, unit.count, op, Team{0, 1, own.barrier}, own.tasks);
    };
    const auto to = [&](std::vector<float>& array) { return array.data() + unit.first * width + row; };
    const Matrix up = mixture.up.part(unit.expert, panels);
    if (!mixture.gate) return product({up, nullptr, {}, bias(mixture.up_bias), nullptr, nullptr, to(hidden_), width});
    const Matrix gate = mixture.gate->part(unit.expert, panels);
    if (work.is_fused())
        return product({gate, &up, mixture.activation, bias(mixture.gate_bias), bias(mixture.up_bias), nullptr, to(hidden_),
                        width});
    product({gate, nullptr, {}, bias(mixture.gate_bias), nullptr, nullptr, to(hidden_), width});
    product({up, nullptr, {}, bias(mixture.up_bias), nullptr, nullptr, to(second_), width});
}

void MixtureScratch::down(const Work& work, const Unit& unit, Range panels, Own& own) {
    const Mixture& mixture = work.mixture;
    const size_t row = panels.from * kPanel, rows = mixture.down.rows;
    const Matrix w = mixture.down.part(unit.expert, panels);
    const float* const bias = mixture.down_bias ? mixture.down_bias + unit.expert * rows + row : nullptr;
    ++own.calls;
    work.down_products().linear(first_line(packed_hidden_) + unit.packed_hidden, unit.count,
                                {w, nullptr, {}, bias, nullptr, nullptr, results_.data() + unit.first * rows + row, rows},
                                Team{0, 1, own.barrier}, own.tasks);
}

// Add up the results of each token's experts, best first.
void MixtureScratch::combine(const Work& work, const Team& team) {
    const size_t used = work.mixture.router.used, rows = work.mixture.down.rows;
    const size_t lines = (rows + kPanel - 1) / kPanel;
    const Range mine = team.share(work.tokens * lines);
    for (size_t at = mine.from; at < mine.to;) {
        const size_t token = at / lines, first = at % lines * kPanel;
        const size_t end = std::min(rows, first + (mine.to - at) * kPanel);
        float* const out = work.out + token * rows;
        std::fill(out + first, out + end, 0.0f);
        for (size_t choice = token * used; choice < (token + 1) * used; ++choice) {
            if (slots_[choice] < 0) continue;
            const float* const result = results_.data() + static_cast<size_t>(slots_[choice]) * rows;
            const float weight = work.mixture.weighs_input ? 1.0f : weights_[choice];
            for (size_t i = first; i < end; ++i) out[i] += weight * result[i];
        }
        at += (end - first + kPanel - 1) / kPanel;
    }
}

void MixtureScratch::run(const Kernels& kernels, const Mixture& mixture, const float* x, const float* logits, size_t tokens,
                         float* out, const Team& team, Tasks& gate_up_tasks, Tasks& down_tasks) {
    const Work work{kernels, mixture, x, logits, tokens, out};
    Own& own = own_[team.index];
    if (tokens > kFewTokens) {
        choose(work, team.share(tokens), own);
        team.wait();
    }
    if (!team.index) {
        if (tokens <= kFewTokens) choose(work, {0, tokens}, own);
        group(work);
    }
    team.wait();
    pack(work, team);
    team.wait();
    by_panels(work, mixture.up.panels(), team, gate_up_tasks,
              [&](const Unit& unit, Range panels, Own& mine) { gate_up(work, unit, panels, mine); });
    team.wait();
    pack_hidden(work, team);
    team.wait();
    by_panels(work, mixture.down.panels(), team, down_tasks,
              [&](const Unit& unit, Range panels, Own& mine) { down(work, unit, panels, mine); });
    team.wait();
    combine(work, team);
}

}  // namespace rowspan
