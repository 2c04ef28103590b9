// Shared by the bind_*.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "kernels.hpp"

namespace rowspan {

// Tensors arrive as addresses.
template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Of an instruction set this machine has; or "amx_emulated", which only tests ask for.
const Kernels& kernels_named(const std::string& isa);

}  // namespace rowspan
