// Threads that share the tasks of one kernel call.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace rowspan {

// Between the calls of a step, microseconds apart, a thread waits by looking; it sleeps once nothing has come for so
// many looks (about 50 µs), so that an idle engine uses no core.
constexpr int kLooks = 1500;

class Pool {
  public:
    explicit Pool(size_t threads) {
        for (size_t i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
    }

    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    ~Pool() {
        {
            std::lock_guard lock(mutex_);
            ending_ = true;
            ++call_;
        }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    size_t threads() const { return helpers_.size() + 1; }

    // Call work(first, last) so that tasks 0 … tasks - 1 are all done when this returns; in the calling thread alone
    // when `small` says that waking others would take longer.
    template <typename Work>
    void run(size_t tasks, bool small, const Work& work) {
        if (small || helpers_.empty() || tasks < 2) {
            if (tasks) work(size_t{0}, tasks);
            return;
        }
        job_ = [](const void* context, size_t first, size_t last) { (*static_cast<const Work*>(context))(first, last); };
        context_ = &work;
        tasks_ = tasks;
        unfinished_.store(helpers_.size(), std::memory_order_relaxed);
        {
            // Under the lock, so that a helper that has just found nothing cannot fall asleep unnoticed.
            std::lock_guard lock(mutex_);
            call_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        do_share(0);
        for (int looks = 0; unfinished_.load(std::memory_order_acquire);)
            if (++looks < kLooks)
                _mm_pause();
            else
                std::this_thread::yield();  // more threads than cores: let the helper run
    }

  private:
    void help(size_t index) {
        for (size_t seen = 0;;) {
            for (int looks = 0; call_.load(std::memory_order_acquire) == seen && looks < kLooks; ++looks) _mm_pause();
            if (call_.load(std::memory_order_acquire) == seen) {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return call_.load(std::memory_order_relaxed) != seen; });
            }
            ++seen;
            if (ending_) return;
            do_share(index);
            unfinished_.fetch_sub(1, std::memory_order_release);
        }
    }

    void do_share(size_t index) {
        const size_t first = tasks_ * index / threads(), last = tasks_ * (index + 1) / threads();
        if (first < last) job_(context_, first, last);
    }

    void (*job_)(const void*, size_t, size_t) = nullptr;
    const void* context_ = nullptr;
    size_t tasks_ = 0;
    std::atomic<size_t> unfinished_{0};
    std::atomic<size_t> call_{0};
    bool ending_ = false;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> helpers_;  // last: they use all of the above
};

}  // namespace rowspan
