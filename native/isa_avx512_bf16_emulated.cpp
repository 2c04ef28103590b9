#define ROWSPAN_ISA avx512_bf16_emulated
#define ROWSPAN_EMULATED
#include "linear_bf16.hpp"

namespace rowspan {

const Kernels& avx512_bf16_emulated_kernels() {
    static const Kernels kernels = avx512_bf16_emulated::kernels_with_bfloats("avx512_bf16_emulated");
    return kernels;
}

}  // namespace rowspan
