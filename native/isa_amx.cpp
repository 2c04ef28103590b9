#define ROWSPAN_ISA amx
#include "isa_amx.hpp"

namespace rowspan {

const Kernels& amx_kernels() {
    static const Kernels kernels = amx::kernels_with_tiles("amx");
    return kernels;
}

}  // namespace rowspan
