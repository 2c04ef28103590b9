// Whether kernels compute here what others do: for instructions that a machine may claim to have and not do right, as
// some virtual ones.
#pragma once

#include "kernels.hpp"

namespace rowspan {

// Products of a small random matrix and int8 tokens, bit for bit. Computed in a child process with a time-out: an
// instruction that the machine refuses after all, or hangs in, ends the child alone.
bool same_int8_products(const Kernels& kernels, const Kernels& proven);

}  // namespace rowspan
