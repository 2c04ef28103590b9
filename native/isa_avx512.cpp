#define ROWSPAN_ISA avx512
#include "isa.hpp"
