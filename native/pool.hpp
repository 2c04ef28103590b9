// The threads of one rank.
#pragma once

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "team.hpp"

namespace rowspan {

class Pool {
  public:
    explicit Pool(size_t threads) {
        for (size_t i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
        pin();
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

    // Call work(team) in every thread, this one included, and return when all are done.
    template <typename Work>
    void run(const Work& work) {
        job_ = [](const void* context, const Team& team) { (*static_cast<const Work*>(context))(team); };
        context_ = &work;
        if (!helpers_.empty()) {
            {
                // Under the lock, so that a helper that has just found nothing cannot fall asleep unnoticed.
                std::lock_guard lock(mutex_);
                call_.fetch_add(1, std::memory_order_release);
            }
            wake_.notify_all();
        }
        do_share(0);
    }

  private:
    // A step follows the last one within some 100 µs, in which a helper waits by looking; it sleeps once nothing has come
    // for so many spins (about 200 µs), so that an idle engine uses no core.
    static constexpr int kSpins = 6000;

    // Give each helper a core of its own, where there are as many as threads; the first one is the caller's. Left to itself
    // the system wakes a helper on the core of whoever woke it, and the two take turns: decode at a tenth of its speed.
    void pin() {
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) || static_cast<size_t>(CPU_COUNT(&allowed)) != threads()) return;
        size_t place = 0;
        for (int core = 0; core < CPU_SETSIZE; ++core) {
            if (!CPU_ISSET(core, &allowed) || place++ == 0) continue;
            cpu_set_t own;
            CPU_ZERO(&own);
            CPU_SET(core, &own);
            pthread_setaffinity_np(helpers_[place - 2].native_handle(), sizeof own, &own);
        }
    }

    void help(size_t index) {
        for (size_t seen = 0;;) {
            for (int spins = 0; call_.load(std::memory_order_acquire) == seen && spins < kSpins; ++spins) _mm_pause();
            if (call_.load(std::memory_order_acquire) == seen) {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return call_.load(std::memory_order_relaxed) != seen; });
            }
            ++seen;
            if (ending_) return;
            do_share(index);
        }
    }

    void do_share(size_t index) {
        const Team team = {index, threads(), barrier_};
        job_(context_, team);
        team.wait();
    }

    void (*job_)(const void*, const Team&) = nullptr;
    const void* context_ = nullptr;
    std::atomic<size_t> call_{0};
    bool ending_ = false;
    Barrier barrier_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> helpers_;  // last: they use all of the above
};

}  // namespace rowspan
