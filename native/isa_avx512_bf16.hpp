// AVX-512's kernels, with products of bfloat16 weights. Included by isa_avx512_bf16*.cpp, which name the instruction set.
#pragma once

#include "isa_extended.hpp"
#include "linear_bf16.hpp"

namespace rowspan {

const Kernels& ROWSPAN_KERNELS() {
    using namespace ROWSPAN_ISA;
    return extended([](Kernels& kernels) {
        kernels.bfloats = {PairedTokens::bytes, PairedTokens::pack, linear_bfloats};
    });
}

}  // namespace rowspan
