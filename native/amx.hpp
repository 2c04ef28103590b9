// Asks the kernel for permission to use the tile registers of AMX, as a process must.
#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "team.hpp"

namespace rowspan {

// Whether cpuid says so (leaf 7: 22 bf16, 24 tiles, 25 int8) and the kernel lets this process use the tile registers.
ROWSPAN_INLINE bool amx_allowed(unsigned bit) {
    constexpr unsigned kTiles = 24;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> kTiles & d >> bit & 1)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// The operand of ldtilecfg. Palette 1, eight tiles of 16 rows and 64 bytes unless made smaller.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace rowspan
