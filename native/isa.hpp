// The kernels of one instruction set, put together. Included by isa_*.cpp, which name the set.
#pragma once

#include "activations.hpp"
#include "attention.hpp"
#include "cache_rows.hpp"
#include "isa_name.hpp"
#include "kernels.hpp"
#include "linear.hpp"
#include "small_ops.hpp"

namespace rowspan {

const Kernels& ROWSPAN_KERNELS() {
    using namespace ROWSPAN_ISA;
    static constexpr Kernels kernels{
        ROWSPAN_NAME, kTokenTile, {float_tokens_bytes, pack_floats, linear_float},
        {int8_tokens_bytes, pack_int8, linear_int8}, {}, rms_norm, layer_norm, gated, activate, scale, soft_cap, sum, rope, write_cache,
        attention_scratch, attention<FloatFlash>, attention<Int16Flash>};
    return kernels;
}

}  // namespace rowspan
