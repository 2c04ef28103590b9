// AVX-512's kernels, with products in tiles, and attention to caches of bfloat16. Included by isa_amx*.cpp, which name
// the instruction set.
#pragma once

#include "attention.hpp"
#include "flash_bf16.hpp"
#include "isa_extended.hpp"
#include "linear_amx_bf16.hpp"
#include "linear_amx_int8.hpp"

namespace rowspan::ROWSPAN_ISA {

inline void pack_float_tiles(const float* x, size_t tokens, size_t columns, void* packed, Range tiles) {
    avx512_kernels().floats.pack(x, tokens, columns, packed, lower_tiles(tiles, tokens));
}

inline void attention_in_tiles(const Attention& work, float* scratch, const Team& team, Tasks& tasks) {
    if (work.k.type == CacheType::bf16 && work.v.type == CacheType::bf16)
        return attention<BfloatFlash>(work, scratch, team, tasks);
    avx512_kernels().attention_rounded(work, scratch, team, tasks);
}

}  // namespace rowspan::ROWSPAN_ISA

namespace rowspan {

const Kernels& ROWSPAN_KERNELS() {
    using namespace ROWSPAN_ISA;
    return extended([](Kernels& kernels) {
        kernels.token_tile = kTileTokens;
        kernels.floats.pack = pack_float_tiles;
        kernels.int8 = {tile_tokens_bytes, pack_tiles, linear_tiles};
        kernels.attention_rounded = attention_in_tiles;
        kernels.bfloats = {TiledTokens::bytes, TiledTokens::pack, linear_bfloat_tiles};
    });
}

}  // namespace rowspan
