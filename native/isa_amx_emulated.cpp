#define ROWSPAN_ISA amx_emulated
#define ROWSPAN_EMULATED
#include "isa_amx.hpp"
