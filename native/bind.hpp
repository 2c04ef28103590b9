// Declarations shared by the bind_*.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "kernels.hpp"
#include "pool.hpp"

namespace rowspan {

// Tensors arrive as addresses.
template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

// Of an instruction set this machine has; or one that is emulated, which only tests ask for.
const Kernels& kernels_named(const std::string& isa);

// One rank's kernels and threads. Programs keep it alive.
struct Cpu {
    Cpu(const std::string& isa, size_t threads) : kernels(kernels_named(isa)), pool(threads) {}

    const Kernels& kernels;
    Pool pool;
};

}  // namespace rowspan
