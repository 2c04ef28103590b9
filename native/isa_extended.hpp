// Kernels of an instruction set that adds something to AVX-512.
#pragma once

#include "isa_name.hpp"
#include "kernels.hpp"

namespace rowspan::ROWSPAN_ISA {

// AVX-512's kernels under this set's name, with what add(kernels) puts in their place.
template <typename Add>
inline const Kernels& extended(Add add) {
    static const Kernels kernels = [add] {
        Kernels kernels = avx512_kernels();
        kernels.name = ROWSPAN_NAME;
        add(kernels);
        return kernels;
    }();
    return kernels;
}

}  // namespace rowspan::ROWSPAN_ISA
