// The Python module: kernels chosen at run time, and the threads that run them. Tensors arrive as addresses; the Python
// side (rowspan/kernels/cpu) answers for shapes, types and lifetimes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "pool.hpp"

namespace nb = nanobind;

namespace rowspan {

// Multiply-adds below which a call is not worth sharing: waking a helper takes some 5 µs.
constexpr size_t kSmallWork = 1 << 16;

// What this machine can run, best first.
std::vector<const Kernels*> available() {
    std::vector<const Kernels*> found;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        found.push_back(&avx512_kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2_kernels());
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
    throw std::invalid_argument("this machine has no " + isa);
}

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

class Cpu {
  public:
    Cpu(const std::string& isa, size_t threads) : kernels_(kernels_named(isa)), pool_(threads) {}

    void linear(uintptr_t x, size_t tokens, uintptr_t codes, uintptr_t scales, uintptr_t minima, size_t rows,
                size_t columns, size_t group, bool four_bit, uintptr_t bias, uintptr_t y) {
        const GroupedMatrix matrix{at<int8_t>(codes), at<float>(scales), at<float>(minima), rows,
                                   columns,           group,             four_bit};
        const bool small = tokens * rows * columns < kSmallWork;
        const float* packed = at<float>(x);  // a lone token is packed as it is
        if (tokens > 1) {
            packed_.resize(std::max(packed_.size(), tokens * columns));
            const size_t tiles = (tokens + kernels_.token_tile - 1) / kernels_.token_tile;
            pool_.run(tiles, tokens * columns < kSmallWork, [&](size_t first, size_t last) {
                kernels_.pack_tokens(at<float>(x), tokens, columns, packed_.data(), first, last);
            });
            packed = packed_.data();
        }
        pool_.run((rows + 15) / 16, small, [&](size_t first, size_t last) {
            kernels_.linear(packed, tokens, matrix, at<float>(bias), at<float>(y), first, last);
        });
    }

    void rms_norm(uintptr_t x, uintptr_t weight, float eps, size_t n, size_t width, uintptr_t out) {
        pool_.run(n, n * width < kSmallWork, [&](size_t first, size_t last) {
            kernels_.rms_norm(at<float>(x), at<float>(weight), eps, width, at<float>(out), first, last);
        });
    }

    void gated_silu(uintptr_t gate, uintptr_t up, size_t n, uintptr_t out) {
        // In lines of 64 bytes, so that no two threads write to one.
        pool_.run((n + 15) / 16, n < kSmallWork / 16, [&](size_t first, size_t last) {
            kernels_.gated_silu(at<float>(gate), at<float>(up), at<float>(out), first * 16, std::min(n, last * 16));
        });
    }

    void rope(uintptr_t x, uintptr_t cos, uintptr_t sin, size_t tokens, size_t heads, size_t size, size_t half,
              bool interleaved, uintptr_t out) {
        pool_.run(tokens, tokens * heads * size < kSmallWork, [&](size_t first, size_t last) {
            kernels_.rope(at<float>(x), at<float>(cos), at<float>(sin), heads, size, half, interleaved, at<float>(out),
                          first, last);
        });
    }

    void attention(uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t slots, uintptr_t first_positions, uintptr_t out,
                   size_t sequences, size_t tokens, size_t slot_stride, size_t kv_heads, size_t group, size_t size,
                   size_t window) {
        const Attention work{at<float>(q),
                             at<float>(k),
                             at<float>(v),
                             at<int64_t>(slots),
                             at<int64_t>(first_positions),
                             at<float>(out),
                             sequences,
                             tokens,
                             slot_stride,
                             kv_heads,
                             group,
                             size,
                             window};
        pool_.run(kernels_.attention_tasks(work), false,
                  [&](size_t first, size_t last) { kernels_.attention(work, first, last); });
    }

  private:
    const Kernels& kernels_;
    Pool pool_;
    std::vector<float> packed_;
};

}  // namespace rowspan

NB_MODULE(_native, module) {
    using rowspan::Cpu;
    module.def("isas", &rowspan::isas, "Instruction sets this machine has kernels for, best first.");
    nb::class_<Cpu>(module, "Cpu")
        .def(nb::init<const std::string&, size_t>(), nb::arg("isa"), nb::arg("threads"))
        .def("linear", &Cpu::linear)
        .def("rms_norm", &Cpu::rms_norm)
        .def("gated_silu", &Cpu::gated_silu)
        .def("rope", &Cpu::rope)
        .def("attention", &Cpu::attention);
}
