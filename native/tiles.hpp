// The tile registers of AMX, 0 to 7, configured as long as a `Tiles` lives. With ROWSPAN_EMULATE_TILES, what they do in
// plain C++: it reads and writes the same memory, and traps where the instructions would, so tests of its users hold for
// both.
//
// Assembly, as gcc 12's intrinsics do not say that they read memory, and take nothing but literal numbers of registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx.hpp"

namespace rowspan::ROWSPAN_ISA {

#if !defined(ROWSPAN_EMULATE_TILES)

class Tiles {
  public:
    explicit Tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
    ~Tiles() { asm volatile("tilerelease"); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    template <int To>
    void zero() {
        asm volatile("tilezero %%tmm%c0" : : "i"(To));
    }
    // Rows of memory, `stride` bytes apart.
    template <int To>
    void load(const void* from, size_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(To) : "memory");
    }
    template <int From>
    void store(void* to, size_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(From) : "memory");
    }
    // To (m, n) += Signed (m, 4 k) · Unsigned (k, n · 4), bytes to 32 bits.
    template <int To, int Signed, int Unsigned>
    void multiply() {
        asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(To), "i"(Signed), "i"(Unsigned));
    }
};

#else

class Tiles {
  public:
    explicit Tiles(const TileConfig& config) : config_(config) {
        bool valid = config.palette == 1 && config.start_row == 0;
        for (int tile = 0; tile < 16; ++tile)
            valid = valid && config.rows[tile] <= kRows && config.row_bytes[tile] <= kRowBytes &&
                    !config.rows[tile] == !config.row_bytes[tile] && (tile < kTiles || !config.rows[tile]);
        require(valid);
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    template <int To>
    void zero() {
        require(config_.rows[To]);
        __builtin_memset(bytes_[To], 0, sizeof bytes_[To]);
    }
    template <int To>
    void load(const void* from, size_t stride) {
        zero<To>();
        for (size_t row = 0; row < config_.rows[To]; ++row)
            __builtin_memcpy(bytes_[To][row], static_cast<const uint8_t*>(from) + row * stride, config_.row_bytes[To]);
    }
    template <int From>
    void store(void* to, size_t stride) {
        require(config_.rows[From]);
        for (size_t row = 0; row < config_.rows[From]; ++row)
            __builtin_memcpy(static_cast<uint8_t*>(to) + row * stride, bytes_[From][row], config_.row_bytes[From]);
    }
    template <int To, int Signed, int Unsigned>
    void multiply() {
        static_assert(To != Signed && To != Unsigned && Signed != Unsigned);
        const size_t rows = config_.rows[To], row_bytes = config_.row_bytes[To], depth = config_.rows[Unsigned];
        require(rows && depth && row_bytes % 4 == 0);
        require(config_.rows[Signed] == rows && config_.row_bytes[Signed] == depth * 4);
        require(config_.row_bytes[Unsigned] == row_bytes);
        for (size_t row = 0; row < rows; ++row) {
            int32_t sums[kRowBytes / 4];
            __builtin_memcpy(sums, bytes_[To][row], sizeof sums);
            for (size_t k = 0; k < depth; ++k)
                for (size_t at = 0; at < row_bytes; ++at)
                    sums[at / 4] += static_cast<int8_t>(bytes_[Signed][row][k * 4 + at % 4]) * bytes_[Unsigned][k][at];
            __builtin_memcpy(bytes_[To][row], sums, sizeof sums);
        }
    }

  private:
    static constexpr int kTiles = 8;
    static constexpr size_t kRows = 16, kRowBytes = 64;

    static void require(bool valid) {
        if (!valid) __builtin_trap();
    }

    const TileConfig config_;
    uint8_t bytes_[kTiles][kRows][kRowBytes] = {};
};

#endif

}  // namespace rowspan::ROWSPAN_ISA
