// Divides the work of one call among the threads of a run when cores are not equally fast: by their nature, or because
// other programs or, on virtual machines, the host use them, too.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "team.hpp"

namespace rowspan {

// The tasks of one call: each thread does its own share, in order, and then what others have not begun of theirs. So the
// memory of a thread's share stays near it, and a thread that falls behind is helped.
class Tasks {
  public:
    // step: a number that is another one in each step; all tasks are undone when it begins.
    Tasks(size_t threads, const uint32_t& step) : shares_(threads), step_(step) {}

    // visit(task) for tasks 0 … count - 1, each in one of the threads.
    template <typename Visit>
    ROWSPAN_INLINE void run(const Team& team, size_t count, const Visit& visit) {
        for (size_t turn = 0; turn < team.count; ++turn) {
            const size_t whose = (team.index + turn) % team.count;
            const Range share = team.share_of(whose, count);
            for (size_t task; (task = share.from + take(whose)) < share.to;) {
                visit(task);
                team.task_done();
            }
        }
    }

    // The number of the next undone task of a share; beyond its last one, there is none.
    ROWSPAN_INLINE size_t take(size_t whose) {
        std::atomic<uint64_t>& taken = shares_[whose].taken;
        uint64_t seen = taken.load(std::memory_order_relaxed), now;
        do {
            now = (seen >> 32 == step_ ? seen : static_cast<uint64_t>(step_) << 32) + 1;
        } while (!taken.compare_exchange_weak(seen, now, std::memory_order_relaxed));
        return static_cast<uint32_t>(now) - 1;
    }

  private:
    struct alignas(64) Share {
        std::atomic<uint64_t> taken{0};  // number of tasks taken in the low half, the step of that number in the high half
    };

    std::vector<Share> shares_;
    const uint32_t& step_;
};

}  // namespace rowspan
