#define ROWSPAN_ISA avx512_bf16_emulated
#define ROWSPAN_EMULATED
#include "isa_avx512_bf16.hpp"
