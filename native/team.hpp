// The threads that run one program together: each calls the same functions with its own Team.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <cstddef>
#include <thread>

// Kernels of every instruction set call these: were they not inlined, the linker would keep one set's copy for all.
#define ROWSPAN_INLINE __attribute__((always_inline)) inline

namespace rowspan {

struct Range {
    size_t from, to;
};

// Where all threads of a run wait for each other: microseconds apart, so a thread waits by looking, and lets others run
// once it has looked in vain for some 20 µs (more threads than cores, or a neighbour took the core).
class Barrier {
  public:
    ROWSPAN_INLINE void wait(size_t count) {
        const size_t round = round_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
            if (spins < kSpins)
                _mm_pause();
            else
                std::this_thread::yield();
        }
    }

  private:
    static constexpr int kSpins = 600;
    alignas(64) std::atomic<size_t> arrived_{0};
    alignas(64) std::atomic<size_t> round_{0};
};

// One thread's place among `count`.
struct Team {
    size_t index, count;
    Barrier& barrier;

    // This thread's part of tasks 0 … tasks - 1, the same one whenever the number is the same.
    ROWSPAN_INLINE Range share(size_t tasks) const { return share_of(index, tasks); }
    ROWSPAN_INLINE Range share_of(size_t whose, size_t tasks) const {
        return {tasks * whose / count, tasks * (whose + 1) / count};
    }
    ROWSPAN_INLINE void wait() const {
        if (count > 1) barrier.wait(count);
    }
};

}  // namespace rowspan
