// The Python module: kernels chosen at run time, the threads that run them, and programs of their calls. Tensors arrive as
// addresses; the Python side (rowspan/kernels/cpu) answers for shapes, types and lifetimes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "amx.hpp"
#include "bind.hpp"
#include "program.hpp"
#include "self_check.hpp"

namespace nb = nanobind;

namespace rowspan {

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

// Views of NumPy's arrays, which outlive the step: Python takes 4 µs for a step's addresses, this 0.4.
template <typename T, size_t Dimensions>
using Integers = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

using Side = std::tuple<int, uintptr_t, uintptr_t, size_t>;  // type, data, scales, slots

CacheSide cache_side(const Side& side) {
    const auto [type, data, scales, slots] = side;
    return {static_cast<CacheType>(type), at<void>(data), at<void>(scales), slots};
}

void bind_program(nb::module_& module) {
    nb::class_<Cpu>(module, "Cpu")
        .def(nb::init<const std::string&, size_t>(), nb::arg("isa"), nb::arg("threads"))
        .def_prop_ro("has_bfloats", [](const Cpu& cpu) { return cpu.kernels.bfloats.linear != nullptr; })
        .def("packed_bytes", [](const Cpu& cpu, int form, size_t tokens, size_t columns) {
            return cpu.kernels.products(static_cast<Form>(form)).bytes(tokens, columns);
        });

    nb::class_<Matrix>(module, "Matrix")
        .def("__init__", [](Matrix* matrix, int kind, uintptr_t codes, uintptr_t scales, uintptr_t minima,
                            uintptr_t sub_scales, uintptr_t sub_minima, size_t rows, size_t columns, size_t group,
                            int zero) {
            new (matrix) Matrix{static_cast<Codes>(kind), at<void>(codes), at<uint16_t>(scales), at<uint16_t>(minima),
                                at<int8_t>(sub_scales), at<int8_t>(sub_minima), rows, columns, group, zero};
        });

    nb::class_<Program>(module, "Program")
        .def("__init__",
             [](Program* program, Cpu& cpu, uintptr_t progress) {
                 new (program) Program(cpu.kernels, cpu.pool, at<std::atomic<uint64_t>>(progress));
             },
             nb::keep_alive<1, 2>())
        .def("barrier", &Program::barrier)
        .def("end_segment", &Program::end_segment)
        .def("embedding",
             [](Program& program, int ggml_type, uintptr_t blocks, size_t stride, size_t first, size_t rows,
                size_t columns, uintptr_t out) {
                 program.embedding({ggml_type, at<uint8_t>(blocks), stride, first, rows, columns}, at<float>(out));
             })
        .def("select", [](Program& program, uintptr_t x, size_t width,
                          uintptr_t out) { program.select(at<float>(x), width, at<float>(out)); })
        .def("add",
             [](Program& program, int rows, uintptr_t a, uintptr_t b, size_t width, uintptr_t out) {
                 program.add(static_cast<BatchDim>(rows), at<float>(a), at<float>(b), width, at<float>(out));
             })
        .def("gated_silu",
             [](Program& program, int rows, uintptr_t gate, uintptr_t up, size_t width, uintptr_t out) {
                 program.gated_silu(static_cast<BatchDim>(rows), at<float>(gate), at<float>(up), width, at<float>(out));
             })
        .def("rms_norm",
             [](Program& program, int rows, uintptr_t x, uintptr_t weight, float eps, size_t heads, size_t width,
                uintptr_t out) {
                 program.rms_norm(static_cast<BatchDim>(rows), at<float>(x), at<float>(weight), eps, heads, width,
                                  at<float>(out));
             })
        .def("pack",
             [](Program& program, int rows, int form, uintptr_t x, size_t columns, uintptr_t packed) {
                 program.pack(static_cast<BatchDim>(rows), static_cast<Form>(form), at<float>(x), columns,
                              at<void>(packed));
             })
        .def("linear",
             [](Program& program, int rows, int form, uintptr_t packed, const Matrix& w, uintptr_t bias,
                uintptr_t residual, uintptr_t y) {
                 program.linear(static_cast<BatchDim>(rows), static_cast<Form>(form), at<void>(packed),
                                {w, nullptr, at<float>(bias), at<float>(residual), at<float>(y)});
             },
             nb::keep_alive<1, 5>())
        .def("gated_linear",
             [](Program& program, int rows, int form, uintptr_t packed, const Matrix& gate, const Matrix& up,
                uintptr_t y) {
                 program.linear(static_cast<BatchDim>(rows), static_cast<Form>(form), at<void>(packed),
                                {gate, &up, nullptr, nullptr, at<float>(y)});
             },
             nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>())
        .def("rope",
             [](Program& program, uintptr_t x, uintptr_t cos, uintptr_t sin, size_t heads, size_t size, size_t half,
                bool interleaved, uintptr_t out) {
                 program.rope(at<float>(x), at<float>(cos), at<float>(sin), {heads, size, half, interleaved},
                              at<float>(out));
             })
        .def("write_cache",
             [](Program& program, uintptr_t x, size_t kv_heads, size_t size, const Side& side) {
                 program.write_cache(at<float>(x), kv_heads, size, cache_side(side));
             })
        .def("attention",
             [](Program& program, int rows, uintptr_t q, const Side& k, const Side& v, size_t kv_heads, size_t group,
                size_t size, size_t window, bool exact, uintptr_t out) {
                 program.attention(static_cast<BatchDim>(rows), at<float>(q), cache_side(k), cache_side(v),
                                   {kv_heads, group, size, window}, exact, at<float>(out));
             })
        .def("all_reduce",
             [](Program& program, TPGroup& group, int rows, uintptr_t x, size_t width, bool contributes,
                uintptr_t residual, uintptr_t out) {
                 program.all_reduce(group, static_cast<BatchDim>(rows), at<float>(x), width, contributes,
                                    at<float>(residual), at<float>(out));
             },
             nb::keep_alive<1, 2>())
        .def("gather",
             [](Program& program, TPGroup& group, int rows, uintptr_t x, std::vector<size_t> widths, uintptr_t whole) {
                 program.gather(group, static_cast<BatchDim>(rows), at<float>(x), std::move(widths), at<float>(whole));
             },
             nb::keep_alive<1, 2>())
        .def("send",
             [](Program& program, StageLink& link, uintptr_t x, size_t width) {
                 program.send(link, at<float>(x), width);
             },
             nb::keep_alive<1, 2>())
        .def("receive",
             [](Program& program, StageLink& link, size_t receiver, size_t width, uintptr_t out) {
                 program.receive(link, receiver, width, at<float>(out));
             },
             nb::keep_alive<1, 2>())
        .def("begin",
             [](Program& program, Integers<int64_t, 1> ids, Integers<int64_t, 1> starts,
                Integers<int64_t, 1> first_positions, Integers<int32_t, 2> blocks, size_t block_size,
                Integers<int64_t, 1> output_rows) {
                 const size_t sequences = first_positions.size();
                 if (starts.size() != sequences + 1 || blocks.shape(0) != sequences)
                     throw std::invalid_argument("starts, positions and tables are not of the same sequences");
                 program.begin({ids.size(), ids.data(), sequences, starts.data(), first_positions.data(),
                                {blocks.data(), blocks.shape(1), block_size}, output_rows.size(), output_rows.data()});
             })
        .def("run", &Program::run, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace rowspan

NB_MODULE(_native, module) {
    module.def("isas", &rowspan::isas, "Instruction sets this machine has kernels for, best first.");
    rowspan::bind_exchange(module);
    rowspan::bind_program(module);
    rowspan::bind_pack(module);
    rowspan::bind_ceilings(module);
}
