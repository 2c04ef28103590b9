// Derives identifiers from an instruction set's name: ROWSPAN_KERNELS() names the function that returns its kernels.
#pragma once

#define ROWSPAN_JOIN_(a, b) a##b
#define ROWSPAN_JOIN(a, b) ROWSPAN_JOIN_(a, b)
#define ROWSPAN_STRING_(a) #a
#define ROWSPAN_STRING(a) ROWSPAN_STRING_(a)

#define ROWSPAN_KERNELS() ROWSPAN_JOIN(ROWSPAN_ISA, _kernels)()
#define ROWSPAN_NAME ROWSPAN_STRING(ROWSPAN_ISA)
