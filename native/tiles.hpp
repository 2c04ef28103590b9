// The tile registers of AMX, 0 to 7, configured as long as a `Tiles` lives. With ROWSPAN_EMULATED, plain C++ does the same:
// it reads and writes the same memory, and traps where the instructions would, so tests of its users hold for both.
//
// Assembly, as gcc 12's intrinsics do not say that they read memory, and take nothing but literal numbers of registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "amx.hpp"
#include "bfloats.hpp"

namespace rowspan::ROWSPAN_ISA {

constexpr size_t kTileTokens = 16;   // tokens that a register has rows for
constexpr size_t kTileBytes = 1024;  // bytes of a whole register

#if !defined(ROWSPAN_EMULATED)

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
    // To (m, n) += Left (m, 2 k) · Right (k, n · 2), bfloat16 to float32.
    template <int To, int Left, int Right>
    void multiply_bfloats() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(To), "i"(Left), "i"(Right));
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
        require_product<To, Signed, Unsigned>();
        const size_t rows = config_.rows[To], row_bytes = config_.row_bytes[To], depth = config_.rows[Unsigned];
        for (size_t row = 0; row < rows; ++row) {
            int32_t sums[kRowBytes / 4];
            __builtin_memcpy(sums, bytes_[To][row], sizeof sums);
            for (size_t k = 0; k < depth; ++k)
                for (size_t at = 0; at < row_bytes; ++at)
                    sums[at / 4] += static_cast<int8_t>(bytes_[Signed][row][k * 4 + at % 4]) * bytes_[Unsigned][k][at];
            __builtin_memcpy(bytes_[To][row], sums, sizeof sums);
        }
    }
    // The first products of the pairs are added up from zero, and the second ones; then both to what is there.
    template <int To, int Left, int Right>
    void multiply_bfloats() {
        require_product<To, Left, Right>();
        for (size_t row = 0; row < config_.rows[To]; ++row) {
            Vec first = Vec::zero(), second = Vec::zero();
            for (size_t k = 0; k < config_.rows[Right]; ++k) {
                int32_t pair;
                __builtin_memcpy(&pair, bytes_[Left][row] + k * sizeof pair, sizeof pair);
                const Ints left = Ints::all(pair), right = Ints::load(bytes_[Right][k]);
                first = fma_flushed(left.first_bfloats(), right.first_bfloats(), first);
                second = fma_flushed(left.second_bfloats(), right.second_bfloats(), second);
            }
            float* const sums = reinterpret_cast<float*>(bytes_[To][row]);
            flushed(flushed(Vec::load(sums)) + flushed(first + second)).store(sums);
        }
    }

  private:
    static constexpr int kTiles = 8;
    static constexpr size_t kRows = 16, kRowBytes = 64;

    template <int To, int Left, int Right>
    void require_product() const {
        static_assert(To != Left && To != Right && Left != Right);
        const size_t rows = config_.rows[To], row_bytes = config_.row_bytes[To], depth = config_.rows[Right];
        require(rows && depth && row_bytes % 4 == 0);
        require(config_.rows[Left] == rows && config_.row_bytes[Left] == depth * 4);
        require(config_.row_bytes[Right] == row_bytes);
    }
    static void require(bool valid) {
        if (!valid) __builtin_trap();
    }

    const TileConfig config_;
    uint8_t bytes_[kTiles][kRows][kRowBytes] = {};
};

#endif

}  // namespace rowspan::ROWSPAN_ISA
