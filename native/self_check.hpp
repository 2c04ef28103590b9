// Checks that kernels compute what others do, since some machines, virtual ones among them, claim to have instructions that
// they do wrongly.
#pragma once

#include <initializer_list>

#include "kernels.hpp"

namespace rowspan {

// Products of small random matrices and tokens of these forms. Computed in a child process with a time-out: an instruction
// that the machine refuses after all, or hangs in, ends the child alone.
bool same_products(const Kernels& kernels, const Kernels& proven, std::initializer_list<Form> forms);

}  // namespace rowspan
