// The threads that run one program together: each calls the same functions with its own Team.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
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

// What a rank has done, for whoever watches it: one number that grows with every task of a call, and more so with every
// call. Of two ranks with the same calls, the one that is behind has the smaller number. The first thread writes it.
class Progress {
  public:
    explicit Progress(std::atomic<uint64_t>* number) : number_(number) {}

    ROWSPAN_INLINE void task_done() const { set(get() + 1); }
    ROWSPAN_INLINE void call_done() const { set(((get() >> kTaskBits) + 1) << kTaskBits); }

  private:
    static constexpr int kTaskBits = 20;  // a million tasks of one thread and call

    uint64_t get() const { return number_->load(std::memory_order_relaxed); }
    void set(uint64_t value) const { number_->store(value, std::memory_order_relaxed); }

    std::atomic<uint64_t>* number_;
};

// One thread's place among `count`. progress: what this thread keeps up; null: nothing.
struct Team {
    size_t index, count;
    Barrier& barrier;
    const Progress* progress = nullptr;

    ROWSPAN_INLINE void task_done() const {
        if (progress) progress->task_done();
    }

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
