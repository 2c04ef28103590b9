// The Python module, and the kernels that are chosen from at run time.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "amx.hpp"
#include "bind.hpp"
#include "self_check.hpp"

namespace nb = nanobind;

namespace rowspan {

void bind_program(nb::module_& module);
void bind_pack(nb::module_& module);
void bind_exchange(nb::module_& module);
void bind_ceilings(nb::module_& module);

bool avx512_runs() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

bool avx512_bf16_runs() {
    return avx512_runs() && __builtin_cpu_supports("avx512bf16") &&
           same_products(avx512_bf16_kernels(), avx512_kernels(), {Form::bfloats});
}

// Every processor with tiles has both kinds of products.
bool amx_runs() {
    constexpr unsigned kBfloat16 = 22, kInt8 = 25;
    return avx512_runs() && amx_allowed(kBfloat16) && amx_allowed(kInt8) &&
           same_products(amx_kernels(), avx512_kernels(), {Form::int8, Form::bfloats});
}

// What this machine can run, best first.
const std::vector<const Kernels*>& available() {
    static const std::vector<const Kernels*> found = [] {
        std::vector<const Kernels*> all;
        if (amx_runs()) all.push_back(&amx_kernels());
        if (avx512_bf16_runs()) all.push_back(&avx512_bf16_kernels());
        if (avx512_runs()) all.push_back(&avx512_kernels());
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
            all.push_back(&avx2_kernels());
        return all;
    }();
    return found;
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels* kernels : available()) names.emplace_back(kernels->name);
    return names;
}

const Kernels& kernels_named(const std::string& isa) {
    for (const Kernels* kernels : available())
        if (isa == kernels->name) return *kernels;
    if (avx512_runs())
        for (const Kernels* emulated : {&avx512_bf16_emulated_kernels(), &amx_emulated_kernels()})
            if (isa == emulated->name) return *emulated;
    throw std::invalid_argument("this machine has no " + isa);
}

}  // namespace rowspan

NB_MODULE(_native, module) {
    module.def("isas", &rowspan::isas, "Instruction sets this machine has kernels for, best first.");
    rowspan::bind_exchange(module);
    rowspan::bind_program(module);
    rowspan::bind_pack(module);
    rowspan::bind_ceilings(module);
}
