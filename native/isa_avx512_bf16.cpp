#define ROWSPAN_ISA avx512_bf16
#include "isa_avx512_bf16.hpp"
