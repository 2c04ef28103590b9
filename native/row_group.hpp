// Ranks of one host that hold rows of the same layers: their sums, through memory that all of them map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "counter.hpp"
#include "kernels.hpp"

namespace rowspan {

// Each rank has a counter and two slots of `slot` floats. In its n-th act it writes its part to slot n % 2, adds 2 to its
// counter, waits until every other rank has done so, and reads the others' parts. Two slots are enough: who begins act n
// has seen everybody in act n - 1, that is done with reading what act n - 2 left.
//
// All ranks act in the same order. Every thread of a rank's team calls with its own range of rows, the same everywhere.
class RowGroup {
  public:
    static constexpr size_t kMostRanks = 64;

    static size_t nbytes(size_t ranks, size_t slot) { return ranks * (sizeof(Rank) + 2 * sizeof(float) * slot); }

    // memory: nbytes(), zero-filled before the first rank comes; looks: see Counter.
    RowGroup(const Kernels& kernels, void* memory, size_t ranks, size_t rank, size_t slot, size_t looks)
        : kernels_(kernels), places_(static_cast<Rank*>(memory)),
          slots_(reinterpret_cast<float*>(places_ + ranks)), ranks_(ranks), rank_(rank), slot_(slot), looks_(looks) {}

    // out (rows, width) = the sum of x over the ranks that contribute, in their order and so the same bits everywhere, plus
    // residual if there is one. x is not read where it does not contribute. part: this thread's rows of all `rows`.
    void all_reduce(uint32_t act, const float* x, size_t rows, size_t width, bool contributes, const float* residual,
                    float* out, Range part, const Team& team) {
        const Range mine = {part.from * width, part.to * width};
        if (contributes) copy(x + mine.from, slot(rank_, act) + mine.from, mine.to - mine.from);
        if (!team.index) places_[rank_].contributes[act % 2] = contributes;
        if (ranks_ < 3 || rows * width < kSpreadFloats) {
            meet(2 * act + 2, 2, team);
            sum(act, mine, residual, out);
            return;
        }
        // Each rank sums a share of the rows for all, and leaves it in its slot, where nobody else needs those rows.
        meet(2 * act + 1, 1, team);
        const Range due = share(rank_, rows, width);
        const size_t n = due.to - due.from;
        float* total = slot(rank_, act);
        sum(act, {due.from + n * team.index / team.count, due.from + n * (team.index + 1) / team.count}, nullptr, total);
        meet(2 * act + 2, 1, team);
        for (size_t rank = 0; rank < ranks_; ++rank) {
            const Range done = share(rank, rows, width);
            const Range here = {done.from < mine.from ? mine.from : done.from, done.to < mine.to ? done.to : mine.to};
            if (here.from >= here.to) continue;
            const float* const parts[] = {slot(rank, act), residual};
            kernels_.sum(parts, residual ? 2 : 1, out, here);
        }
    }

    // On rank 0: whole (rows, sum of widths) = the x (rows, widths[rank]) of all ranks, side by side.
    void gather(uint32_t act, const float* x, const size_t* widths, float* whole, Range part, const Team& team) {
        const size_t width = widths[rank_];
        copy(x + part.from * width, slot(rank_, act) + part.from * width, (part.to - part.from) * width);
        meet(2 * act + 2, 2, team);
        if (rank_) return;
        size_t stride = 0, column = 0;
        for (size_t rank = 0; rank < ranks_; ++rank) stride += widths[rank];
        for (size_t rank = 0; rank < ranks_; column += widths[rank++])
            for (size_t row = part.from; row < part.to; ++row)
                copy(slot(rank, act) + row * widths[rank], whole + row * stride + column, widths[rank]);
    }

  private:
    // From here on ranks add up a share each: less to read than everybody adding up all, but they must meet twice.
    static constexpr size_t kSpreadFloats = 1 << 16;

    struct Rank {
        Counter acts;
        alignas(64) bool contributes[2];
    };

    float* slot(size_t rank, uint32_t act) const { return slots_ + (2 * rank + act % 2) * slot_; }

    // Whole cache lines, whatever the rows: what a rank writes shares none with another's.
    Range share(size_t rank, size_t rows, size_t width) const {
        constexpr size_t line = 64 / sizeof(float);
        const size_t all = rows * width, lines = (all + line - 1) / line;
        const size_t to = lines * (rank + 1) / ranks_ * line;
        return {lines * rank / ranks_ * line, to < all ? to : all};
    }

    void meet(uint32_t count, uint32_t more, const Team& team) {
        if (together_.last(team.count)) places_[rank_].acts.add(more);
        for (size_t rank = 0; rank < ranks_; ++rank) places_[rank].acts.wait(count, looks_);
    }

    void sum(uint32_t act, Range elements, const float* residual, float* out) const {
        const float* parts[kMostRanks + 1];
        size_t n = 0;
        for (size_t rank = 0; rank < ranks_; ++rank)
            if (places_[rank].contributes[act % 2]) parts[n++] = slot(rank, act);
        if (residual) parts[n++] = residual;
        kernels_.sum(parts, n, out, elements);
    }

    static void copy(const float* from, float* to, size_t n) {
        if (n && from != to) std::memcpy(to, from, n * sizeof(float));
    }

    const Kernels& kernels_;
    Rank* const places_;
    float* const slots_;
    const size_t ranks_, rank_, slot_, looks_;
    Together together_;
};

}  // namespace rowspan
