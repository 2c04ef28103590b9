#define ROWSPAN_ISA amx_emulated
#define ROWSPAN_EMULATED
#include "isa_amx.hpp"

namespace rowspan {

const Kernels& amx_emulated_kernels() {
    static const Kernels kernels = amx_emulated::kernels_with_tiles("amx_emulated");
    return kernels;
}

}  // namespace rowspan
