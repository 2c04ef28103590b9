#define ROWSPAN_ISA avx512_bf16
#include "linear_bf16.hpp"

namespace rowspan {

const Kernels& avx512_bf16_kernels() {
    static const Kernels kernels = avx512_bf16::kernels_with_bfloats("avx512_bf16");
    return kernels;
}

}  // namespace rowspan
