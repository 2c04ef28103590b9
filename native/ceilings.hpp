// The most that a machine can do: bytes read from memory, and multiply-adds out of registers. Kernels are measured against
// these. The loops are assembly, so that no compiler flag changes what is measured.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "amx.hpp"
#include "team.hpp"

namespace rowspan::ceilings {

// Shortest time of several runs that all threads take together: work(thread, of how many). The team outlives the runs,
// so that no thread's start is measured.
template <typename Work>
double best_seconds(size_t threads, size_t runs, Work work) {
    using Clock = std::chrono::steady_clock;
    Barrier barrier;
    double best = std::numeric_limits<double>::infinity();
    auto all_runs = [&](const Team& team) {
        for (size_t run = 0; run < runs; ++run) {
            team.wait();
            const auto started = Clock::now();
            work(team);
            team.wait();
            const std::chrono::duration<double> elapsed = Clock::now() - started;
            if (team.index == 0) best = std::min(best, elapsed.count());
        }
    };
    std::vector<std::thread> helpers;
    for (size_t index = 1; index < threads; ++index)
        helpers.emplace_back([&, index] { all_runs(Team{index, threads, barrier}); });
    all_runs(Team{0, threads, barrier});
    for (std::thread& helper : helpers) helper.join();
    return best;
}

constexpr size_t kStep = 256;    // bytes read at a time
constexpr size_t kStreams = 4;   // read side by side: some 15 % faster than one
constexpr size_t kAhead = 1024;  // bytes between a prefetch and its load

// AVX2 loads suffice to keep any memory busy. A prefetch beyond the buffer's end is harmless.
inline void read_step(const char* from) {
    asm volatile(
        ".irp line, 0, 64, 128, 192\n"
        "prefetcht0 %c1+\\line(%0)\n"
        "vmovdqu \\line(%0), %%ymm0\n"
        "vmovdqu 32+\\line(%0), %%ymm1\n"
        ".endr\n"
        "vzeroupper\n"
        :
        : "r"(from), "i"(kAhead)
        : "xmm0", "xmm1", "memory");
}

// Reads a whole number of steps in every stream.
inline void read(const char* from, const char* to) {
    const size_t length = static_cast<size_t>(to - from) / kStreams;
    for (size_t done = 0; done < length; done += kStep)
        for (size_t stream = 0; stream < kStreams; ++stream) read_step(from + stream * length + done);
}

// Bytes per second that `threads` threads read together out of a buffer of `bytes`, which no cache should hold.
inline double read_bandwidth(size_t threads, size_t bytes, size_t runs) {
    constexpr size_t kPage = 4096;
    const size_t pages = std::max(threads, bytes / kPage);
    const std::unique_ptr<char, decltype(&std::free)> buffer(
        static_cast<char*>(std::aligned_alloc(kPage, pages * kPage)), &std::free);
    if (!buffer) throw std::bad_alloc();
    const auto share = [&](const Team& team) {
        const Range pages_of = team.share(pages);
        return std::pair(buffer.get() + pages_of.from * kPage, buffer.get() + pages_of.to * kPage);
    };
    best_seconds(threads, 1, [&](const Team& team) {  // each thread's part lies in its own node's memory
        const auto [from, to] = share(team);
        std::fill(from, to, 1);
    });
    const double seconds = best_seconds(threads, runs, [&](const Team& team) {
        const auto [from, to] = share(team);
        read(from, to);
    });
    return static_cast<double>(pages * kPage) / seconds;
}

// Twelve independent chains hide the latency of any multiply-add. The registers start at zero: no slow denormals.
#define ROWSPAN_CHAINS(instructions)                                 \
    asm volatile(                                                    \
        "vzeroall\n"                                                 \
        "1:\n"                                                       \
        ".irp n, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13\n"           \
        instructions                                                 \
        ".endr\n"                                                    \
        "dec %0\n"                                                   \
        "jnz 1b\n"                                                   \
        "vzeroupper\n"                                               \
        : "+r"(rounds)                                               \
        :                                                            \
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
          "xmm13", "xmm14", "xmm15", "cc")

inline void f32_avx2(size_t rounds) { ROWSPAN_CHAINS("vfmadd231ps %%ymm0, %%ymm1, %%ymm\\n\n"); }
inline void f32_avx512(size_t rounds) { ROWSPAN_CHAINS("vfmadd231ps %%zmm0, %%zmm1, %%zmm\\n\n"); }
inline void bf16_avx512(size_t rounds) { ROWSPAN_CHAINS("vdpbf16ps %%zmm0, %%zmm1, %%zmm\\n\n"); }
inline void int8_avx512(size_t rounds) { ROWSPAN_CHAINS("vpdpbusd %%zmm0, %%zmm1, %%zmm\\n\n"); }
// A product of bytes without VNNI: summed to 16 bits, then to 32 bits, then added to the accumulator.
inline void int8_avx2(size_t rounds) {
    ROWSPAN_CHAINS(
        "vpmaddubsw %%ymm0, %%ymm1, %%ymm14\n"
        "vpmaddwd %%ymm14, %%ymm0, %%ymm15\n"
        "vpaddd %%ymm15, %%ymm\\n, %%ymm\\n\n");
}
#undef ROWSPAN_CHAINS

// Four accumulators, fed from two and two others as kernels do.
#define ROWSPAN_TILES(instruction)                                       \
    const TileConfig config;                                             \
    asm volatile(                                                        \
        "ldtilecfg %1\n"                                                 \
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7\n"                               \
        "tilezero %%tmm\\n\n"                                            \
        ".endr\n"                                                        \
        "1:\n" instruction " %%tmm6, %%tmm4, %%tmm0\n" instruction       \
        " %%tmm7, %%tmm4, %%tmm1\n" instruction                          \
        " %%tmm6, %%tmm5, %%tmm2\n" instruction                          \
        " %%tmm7, %%tmm5, %%tmm3\n"                                      \
        "dec %0\n"                                                       \
        "jnz 1b\n"                                                       \
        "tilerelease\n"                                                  \
        : "+r"(rounds)                                                   \
        : "m"(config)                                                    \
        : "cc")

inline void bf16_amx(size_t rounds) { ROWSPAN_TILES("tdpbf16ps"); }
inline void int8_amx(size_t rounds) { ROWSPAN_TILES("tdpbusd"); }
#undef ROWSPAN_TILES

// A way to multiply and add. per_round: multiply-adds of one round of its loop.
struct Unit {
    const char* name;
    bool available;
    void (*loop)(size_t rounds);
    size_t per_round;
};

inline std::vector<Unit> units() {
    constexpr size_t kChains = 12, kTileProducts = 4, kTileCells = 16 * 16;
    const bool avx512 = __builtin_cpu_supports("avx512f");
    return {
        {"f32 avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), f32_avx2, kChains * 8},
        {"f32 avx512", avx512, f32_avx512, kChains * 16},
        {"bf16 avx512", avx512 && __builtin_cpu_supports("avx512bf16"), bf16_avx512, kChains * 32},
        {"bf16 amx", amx_allowed(22), bf16_amx, kTileProducts * kTileCells * 32},
        {"int8 avx2", bool(__builtin_cpu_supports("avx2")), int8_avx2, kChains * 32},
        {"int8 avx512", avx512 && __builtin_cpu_supports("avx512vnni"), int8_avx512, kChains * 64},
        {"int8 amx", amx_allowed(25), int8_amx, kTileProducts * kTileCells * 64},
    };
}

// Operations per second, two to a multiply-add, that `threads` threads reach together.
inline double operation_rate(const Unit& unit, size_t threads, size_t runs) {
    constexpr double kLongEnough = 5e-3;  // seconds; a barrier takes some microseconds of it
    for (size_t rounds = 1 << 12;; rounds *= 2) {
        const auto work = [&](const Team&) { unit.loop(rounds); };
        if (best_seconds(threads, 1, work) < kLongEnough) continue;
        const double operations = 2.0 * static_cast<double>(unit.per_round * rounds * threads);
        return operations / best_seconds(threads, runs, work);
    }
}

}  // namespace rowspan::ceilings
