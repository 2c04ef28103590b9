#define ROWSPAN_ISA amx
#include "isa_amx.hpp"
