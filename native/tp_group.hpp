// Ranks of one host that hold rows of the same layers: their sums, through memory that all of them map.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "counter.hpp"
#include "kernels.hpp"

namespace rowspan {

// Each rank has a counter and two slots of `slot` floats. In its n-th exchange it writes its part to slot n % 2, adds 2
// to its counter, waits until every other rank has done so, and reads the others' parts. Two slots are enough: who
// begins exchange n has seen everybody in exchange n - 1, that is done with reading what exchange n - 2 left. What is
// longer than a slot takes several exchanges: slots that stay in the cores' caches carry a prompt's sums faster than
// ones of its size (4 MiB between two cores: 1.3 instead of 2.0 ms), and take no memory to speak of.
//
// All ranks exchange in the same order. Every thread of a rank's team calls.
class TPGroup {
  public:
    static constexpr size_t kMostRanks = 64;

    static size_t nbytes(size_t ranks, size_t slot) { return ranks * (sizeof(Rank) + 2 * sizeof(float) * slot); }

    // memory: nbytes(), zero-filled before the first rank comes; slot: a multiple of 16; spins: see Counter.
    TPGroup(const Kernels& kernels, void* memory, size_t ranks, size_t rank, size_t slot, size_t spins)
        : kernels_(kernels), places_(static_cast<Rank*>(memory)),
          slots_(reinterpret_cast<float*>(places_ + ranks)), ranks_(ranks), rank_(rank), slot_(slot), spins_(spins) {}

    // How many sequence numbers a sum of so many floats takes, and a gathering of so many rows; the caller counts them.
    uint32_t sum_sequences(size_t floats) const { return static_cast<uint32_t>((floats + slot_ - 1) / slot_); }
    uint32_t gather_sequences(size_t rows, const std::vector<size_t>& widths) const {
        const size_t each = rows_at_once(widths);
        return static_cast<uint32_t>((rows + each - 1) / each);
    }

    // out = the sum of x over the ranks that contribute, in their order and so the same bits everywhere, plus residual if
    // there is one. x is not read where it does not contribute. sequence: the first number of this sum's.
    void all_reduce(uint32_t sequence, const float* x, size_t floats, bool contributes, const float* residual,
                    float* out, const Team& team) {
        for (size_t from = 0; from < floats; from += slot_, ++sequence) {
            const size_t n = std::min(slot_, floats - from);
            sum_once(sequence, x + from, n, contributes, residual ? residual + from : nullptr, out + from, team);
        }
    }

    // On rank 0: whole (rows, sum of widths) = the x (rows, widths[rank]) of all ranks, side by side.
    void gather(uint32_t sequence, const float* x, size_t rows, const std::vector<size_t>& widths, float* whole,
                const Team& team) {
        const size_t stride = std::accumulate(widths.begin(), widths.end(), size_t{0});
        const size_t each = rows_at_once(widths);
        for (size_t from = 0; from < rows; from += each, ++sequence) {
            const Range part = team.share(std::min(each, rows - from));
            const size_t width = widths[rank_], n = part.to - part.from;
            copy(x + (from + part.from) * width, slot(rank_, sequence) + part.from * width, n * width);
            meet(2 * sequence + 2, 2, team);
            if (rank_) continue;
            for (size_t rank = 0, column = 0; rank < ranks_; column += widths[rank++])
                for (size_t row = part.from; row < part.to; ++row)
                    copy(slot(rank, sequence) + row * widths[rank], whole + (from + row) * stride + column,
                         widths[rank]);
        }
    }

  private:
    // From here on ranks add up a share each: less to read than everybody adding up all, but they must meet twice.
    static constexpr size_t kSpreadFloats = 1 << 14;
    static constexpr size_t kLine = 64 / sizeof(float);  // what a rank or thread writes shares no cache line with another's

    struct Rank {
        Counter exchanges;
        alignas(64) bool contributes[2];
    };

    float* slot(size_t rank, uint32_t sequence) const { return slots_ + (2 * rank + sequence % 2) * slot_; }

    // One of `count` shares of floats.
    static Range share(size_t floats, size_t index, size_t count) {
        const size_t lines = (floats + kLine - 1) / kLine;
        return {std::min(floats, lines * index / count * kLine), std::min(floats, lines * (index + 1) / count * kLine)};
    }

    size_t rows_at_once(const std::vector<size_t>& widths) const {
        return std::max<size_t>(1, slot_ / *std::max_element(widths.begin(), widths.end()));
    }

    void sum_once(uint32_t sequence, const float* x, size_t floats, bool contributes, const float* residual, float* out,
                  const Team& team) {
        const Range mine = share(floats, team.index, team.count);
        if (contributes) copy(x + mine.from, slot(rank_, sequence) + mine.from, mine.to - mine.from);
        if (!team.index) places_[rank_].contributes[sequence % 2] = contributes;
        if (ranks_ < 3 || floats < kSpreadFloats) {
            meet(2 * sequence + 2, 2, team);
            add_up(sequence, mine, residual, out);
            return;
        }
        // Each rank sums a share for all, and leaves it in its slot, where nobody else needs these floats.
        meet(2 * sequence + 1, 1, team);
        const Range due = share(floats, rank_, ranks_), part = share(due.to - due.from, team.index, team.count);
        add_up(sequence, {due.from + part.from, due.from + part.to}, nullptr, slot(rank_, sequence));
        meet(2 * sequence + 2, 1, team);
        for (size_t rank = 0; rank < ranks_; ++rank) {
            const Range done = share(floats, rank, ranks_);
            const Range here = {std::max(done.from, mine.from), std::min(done.to, mine.to)};
            const float* const parts[] = {slot(rank, sequence), residual};
            if (here.from < here.to) kernels_.sum(parts, residual ? 2 : 1, out, here);
        }
    }

    void meet(uint32_t count, uint32_t more, const Team& team) {
        if (together_.last(team.count)) places_[rank_].exchanges.add(more);
        for (size_t rank = 0; rank < ranks_; ++rank) places_[rank].exchanges.wait(count, spins_);
    }

    void add_up(uint32_t sequence, Range elements, const float* residual, float* out) const {
        const float* parts[kMostRanks + 1];
        size_t n = 0;
        for (size_t rank = 0; rank < ranks_; ++rank)
            if (places_[rank].contributes[sequence % 2]) parts[n++] = slot(rank, sequence);
        if (residual) parts[n++] = residual;
        kernels_.sum(parts, n, out, elements);
    }

    static void copy(const float* from, float* to, size_t n) {
        if (n && from != to) std::memcpy(to, from, n * sizeof(float));
    }

    const Kernels& kernels_;
    Rank* const places_;
    float* const slots_;
    const size_t ranks_, rank_, slot_, spins_;
    Together together_;
};

}  // namespace rowspan
