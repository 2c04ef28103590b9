// A count in memory that processes share, and how to wait for it.
#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>

namespace rowspan {

// Zero-filled memory is a count of 0. A cache line of its own, so that looking at one disturbs no other.
struct alignas(64) Counter {
    std::atomic<uint32_t> count;
    std::atomic<uint32_t> sleepers;

    void add(uint32_t more) {
        count.fetch_add(more);
        if (sleepers.load()) syscall(SYS_futex, &count, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }

    // Wait until `wanted` is reached: spinning so many times, as within a step the others are microseconds away; then
    // asleep, since between steps they may be seconds away. What was written before add() can be read afterwards.
    void wait(uint32_t wanted, size_t spins) {
        for (size_t spin = 0; spin < spins; ++spin) {
            if (reached(count.load(std::memory_order_acquire), wanted)) return;
            _mm_pause();
        }
        sleepers.fetch_add(1);
        // In this order in both, one sequence for all: whoever adds sees the sleeper, or the sleeper what was added.
        for (uint32_t seen = count.load(); !reached(seen, wanted); seen = count.load())
            syscall(SYS_futex, &count, FUTEX_WAIT, seen, nullptr, nullptr, 0);
        sleepers.fetch_sub(1);
    }

  private:
    // Counts wrap around.
    static bool reached(uint32_t count, uint32_t wanted) { return static_cast<int32_t>(count - wanted) >= 0; }
};

static_assert(sizeof(Counter) == 64 && std::atomic<uint32_t>::is_always_lock_free);

// The threads of one rank act as one: true in the last of each `threads` calls.
class Together {
  public:
    bool last(size_t threads) { return (calls_.fetch_add(1, std::memory_order_acq_rel) + 1) % threads == 0; }

  private:
    std::atomic<size_t> calls_{0};
};

}  // namespace rowspan
