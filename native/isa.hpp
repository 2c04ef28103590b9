// The kernels of one instruction set, put together. Included by isa_*.cpp, which name the set.
#pragma once

#include "attention.hpp"
#include "kernels.hpp"
#include "linear.hpp"
#include "small_ops.hpp"

#define ROWSPAN_JOIN_(a, b) a##b
#define ROWSPAN_JOIN(a, b) ROWSPAN_JOIN_(a, b)
#define ROWSPAN_STRING_(a) #a
#define ROWSPAN_STRING(a) ROWSPAN_STRING_(a)

namespace rowspan {

const Kernels& ROWSPAN_JOIN(ROWSPAN_ISA, _kernels)() {
    using namespace ROWSPAN_ISA;
    static constexpr Kernels kernels{
        ROWSPAN_STRING(ROWSPAN_ISA), linear, pack_tokens, kTokenTile, rms_norm, gated_silu, rope, attention,
        attention_tasks};
    return kernels;
}

}  // namespace rowspan
