#define ROWSPAN_ISA avx2
#include "isa.hpp"
