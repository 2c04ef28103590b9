// Programs for Python: src/rowspan/kernels/cpu. What lives as long as the model (weights, tables, caches) arrives as
// arrays, whose shapes are checked here and which live as long as what was made of them. Buffers arrive as addresses:
// Python lays them out, one in another's place, and answers for their sizes and lifetimes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind.hpp"
#include "pack.hpp"
#include "program.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace rowspan {
namespace {

// Views of NumPy's arrays: Python takes 4 µs for a step's addresses, this 0.4.
template <typename T, size_t Dimensions>
using View = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using AnyView = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using AnyArray = nb::ndarray<nb::c_contig, nb::device::cpu>;

void require(bool fits, const char* what) {
    if (!fits) throw std::invalid_argument(what);
}

// The data of an array of so many bytes; null for None, where there are to be none.
template <typename T, typename Array>
T* data_of(const Array& array, size_t nbytes, const char* what) {
    const bool given = array.is_valid();
    require((given ? array.nbytes() : 0) == nbytes, what);
    return given ? static_cast<T*>(array.data()) : nullptr;
}

// None, or one number for each of so many.
const float* floats_of(const View<float, 1>& array, size_t size, const char* what) {
    require(!array.is_valid() || array.size() == size, what);
    return array.is_valid() ? array.data() : nullptr;
}

void make_matrix(Matrix* matrix, Codes kind, const AnyView& codes, const AnyView& scales, const AnyView& exponents,
                 const AnyView& minima, const AnyView& sub_scales, const AnyView& sub_minima, const AnyView& table,
                 size_t rows, size_t columns, size_t group, int zero, const AnyView& e4m3, const AnyView& odd_factors,
                 const AnyView& row_scales) {
    const size_t lanes = (rows + kPanel - 1) / kPanel * kPanel;
    const bool quantized = scales.is_valid(), divided = sub_scales.is_valid(), shifted = minima.is_valid();
    const bool odd = odd_factors.is_valid();
    require(group > 0, "groups have columns");
    const size_t blocks = lanes * columns / (divided || odd ? kSuperBlock : group), groups = lanes * columns / group;
    const char* const misfit = "an array does not fit the matrix";
    new (matrix) Matrix{kind,
                        data_of<const void>(codes, lanes / kPanel * panel_bytes(kind, columns), misfit),
                        data_of<const uint16_t>(scales, quantized ? blocks * sizeof(uint16_t) : 0, misfit),
                        data_of<const uint8_t>(exponents, exponents.is_valid() ? blocks : 0, misfit),
                        data_of<const uint16_t>(minima, shifted ? blocks * sizeof(uint16_t) : 0, misfit),
                        data_of<const int8_t>(sub_scales, divided ? groups : 0, misfit),
                        data_of<const int8_t>(sub_minima, divided && shifted ? groups : 0, misfit),
                        data_of<const uint8_t>(table, kind == Codes::t4 ? kTableSize : 0, misfit),
                        rows,
                        columns,
                        group,
                        zero,
                        data_of<const uint8_t>(e4m3, e4m3.is_valid() ? groups : 0, misfit),
                        data_of<const uint8_t>(odd_factors, odd ? groups / 2 : 0, misfit),
                        data_of<const float>(row_scales, row_scales.is_valid() ? lanes * sizeof(float) : 0, misfit)};
}

void make_cache_side(CacheSide* side, CacheType type, const AnyArray& data, const AnyArray& scales) {
    require(data.ndim() == 3, "a cache is of heads, slots and elements");
    size_t element = sizeof(uint16_t), scales_bytes = 0;
    if (type == CacheType::f32) element = sizeof(float);
    if (type == CacheType::q8_0) {
        element = sizeof(int8_t);
        scales_bytes = data.size() / kCodesPerScale * sizeof(uint16_t);
    }
    if (type == CacheType::i16_keys || type == CacheType::i16_values)
        scales_bytes = data.shape(0) * data.shape(1) * sizeof(float);
    new (side) CacheSide{type,
                         data_of<void>(data, data.size() * element, "elements of a cache are of another type"),
                         data_of<void>(scales, scales_bytes, "scales do not fit their cache"),
                         data.shape(0),
                         data.shape(1),
                         data.shape(2)};
}

void make_router(Router* router, size_t experts, size_t used, Gating gating, bool normalize, float scale, size_t groups,
                 size_t groups_used, const View<float, 1>& selection_bias, const View<float, 1>& scales) {
    require(0 < used && used <= experts, "a token uses some of the experts");
    require(0 < groups_used && groups_used <= groups && experts % groups == 0, "groups are of equally many experts");
    require(used <= experts / groups * groups_used, "the best groups have fewer experts than are used");
    new (router) Router{experts, used, gating, normalize, scale, groups, groups_used,
                        floats_of(selection_bias, experts, "there is one bias for each expert"),
                        floats_of(scales, experts, "there is one scale for each expert")};
}

bool same_table(const uint8_t* a, const uint8_t* b) {
    return a == b || (a && b && std::equal(a, a + kTableSize, b));
}

bool alike(const Matrix& a, const Matrix& b) {
    return a.kind == b.kind && a.rows == b.rows && a.columns == b.columns && a.group == b.group && a.zero == b.zero &&
           !a.minima == !b.minima && !a.sub_scales == !b.sub_scales && !a.exponents == !b.exponents &&
           !a.e4m3 == !b.e4m3 && !a.odd_factors == !b.odd_factors && !a.row_scales == !b.row_scales &&
           same_table(a.table, b.table);
}

void bind_enums(nb::module_& module) {
    nb::enum_<BatchDim>(module, "BatchDim", "What a value has rows for.")
        .value("TOKENS", BatchDim::tokens)
        .value("OUTPUTS", BatchDim::outputs)
        .value("LOGITS", BatchDim::logits);
    nb::enum_<Form>(module, "Form", "What products take their tokens as.")
        .value("FLOATS", Form::floats)
        .value("INT8", Form::int8)
        .value("BFLOATS", Form::bfloats);
    nb::enum_<Activation>(module, "Activation", "See rowspan.model.spec.")
        .value("SILU", Activation::silu)
        .value("GELU", Activation::gelu)
        .value("GELU_ERF", Activation::gelu_erf)
        .value("RELU2", Activation::relu2)
        .value("CLAMPED_SWIGLU", Activation::clamped_swiglu);
    nb::enum_<Gating>(module, "Gating", "See rowspan.model.spec.")
        .value("SOFTMAX", Gating::softmax)
        .value("SIGMOID", Gating::sigmoid)
        .value("SOFTMAX_CHOSEN", Gating::softmax_chosen)
        .value("SQRT_SOFTPLUS", Gating::sqrt_softplus);
    nb::enum_<CacheType>(module, "CacheType", "What keys or values are held as.")
        .value("F32", CacheType::f32)
        .value("F16", CacheType::f16)
        .value("BF16", CacheType::bf16)
        .value("Q8_0", CacheType::q8_0)
        .value("I16_KEYS", CacheType::i16_keys)
        .value("I16_VALUES", CacheType::i16_values);
    nb::enum_<Codes>(module, "Codes", "What a matrix's elements are held as: see rowspan.quant.scheme.")
        .value("F32", Codes::f32)
        .value("F16", Codes::f16)
        .value("BF16", Codes::bf16)
        .value("U8", Codes::u8)
        .value("U4", Codes::u4)
        .value("U6", Codes::u6)
        .value("T4", Codes::t4);
}

void bind_tensors(nb::module_& module) {
    nb::class_<Matrix>(module, "Matrix")
        .def("__init__", &make_matrix, "kind"_a, "codes"_a.noconvert(), "scales"_a.noconvert().none(),
             "exponents"_a.noconvert().none(), "minima"_a.noconvert().none(), "sub_scales"_a.noconvert().none(),
             "sub_minima"_a.noconvert().none(), "table"_a.noconvert().none(), "rows"_a, "columns"_a, "group"_a,
             "zero"_a, "e4m3"_a.noconvert().none(), "odd_factors"_a.noconvert().none(),
             "row_scales"_a.noconvert().none(), nb::keep_alive<1, 14>(), nb::keep_alive<1, 15>(), nb::keep_alive<1, 16>(),
             nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(),
             nb::keep_alive<1, 7>(), nb::keep_alive<1, 8>(), nb::keep_alive<1, 9>())
        .def("is_like", &alike, "other"_a, "Both are of one kind and shape.");
    nb::class_<Router>(module, "Router", "How a mixture's experts are chosen: see rowspan.model.spec.")
        .def("__init__", &make_router, "experts"_a, "used"_a, "gating"_a, "normalize"_a, "scale"_a, "groups"_a,
             "groups_used"_a, "selection_bias"_a.noconvert().none(), "scales"_a.noconvert().none(), nb::keep_alive<1, 9>(),
             nb::keep_alive<1, 10>());
    nb::class_<CacheSide>(module, "CacheSide", "The keys, or the values, of one layer: native/kernels.hpp.")
        .def("__init__", &make_cache_side, "type"_a, "data"_a.noconvert(), "scales"_a.noconvert().none(),
             nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>());
}

void embedding(Program& program, const std::string& scheme, nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu> blocks,
               size_t first, uintptr_t out) {
    require(blocks.shape(0) == 0 || blocks.stride(1) == 1, "bytes of a row are not side by side");
    const BlockFormat& format = block_format(scheme);
    program.embedding({&format, blocks.data(), static_cast<size_t>(blocks.stride(0)), first, blocks.shape(0),
                       format.columns(blocks.shape(1))},
                      at<float>(out));
}

void linear(Program& program, BatchDim rows, Form form, uintptr_t packed, const Matrix& w, const View<float, 1>& bias,
            uintptr_t residual, uintptr_t out) {
    program.linear(rows, form, at<void>(packed),
                   {w, nullptr, {}, floats_of(bias, w.rows, "a bias is one number a row"), nullptr, at<float>(residual),
                    at<float>(out), w.rows});
}

void gated_linear(Program& program, BatchDim rows, Form form, uintptr_t packed, const Matrix& gate, const Matrix& up,
                  Activation activation, uintptr_t out) {
    require(alike(gate, up), "gate and up are of different kinds or shapes");
    program.linear(rows, form, at<void>(packed), {gate, &up, activation, nullptr, nullptr, nullptr, at<float>(out), gate.rows});
}

void mixture(Program& program, BatchDim rows, uintptr_t x, uintptr_t logits, const Router& router, const Matrix* gate,
             const Matrix& up, const Matrix& down, size_t held, size_t first, const View<float, 1>& gate_bias,
             const View<float, 1>& up_bias, const View<float, 1>& down_bias, Activation activation, bool weighs_input,
             Form form, Form down_form, size_t width, size_t hidden, uintptr_t out) {
    const auto lanes = [&](size_t of_each) { return held * ((of_each + kPanel - 1) / kPanel) * kPanel; };
    require(up.rows == lanes(width) && down.rows == lanes(hidden) && down.columns == width,
            "matrices are not those of so many experts");
    require(!gate || (gate->rows == up.rows && gate->columns == up.columns), "gate and up are of different shapes");
    require(gate || activation != Activation::clamped_swiglu, "this activation takes a gate");
    require(held <= router.experts && first <= router.experts - held, "there are not so many experts");
    const char* const misfit = "biases of experts are one number a row";
    std::optional<ExpertMatrices> gates;
    if (gate) gates.emplace(ExpertMatrices{*gate, width});
    program.mixture(rows, at<float>(x), at<float>(logits),
                    {router, gates, {up, width}, {down, hidden}, floats_of(gate_bias, held * width, misfit),
                     floats_of(up_bias, held * width, misfit), floats_of(down_bias, held * hidden, misfit), activation,
                     gate && alike(*gate, up), weighs_input, form, down_form, first, held},
                    at<float>(out));
}

void rope(Program& program, uintptr_t x, const View<float, 2>& cos, const View<float, 2>& sin, size_t heads, size_t size,
          bool interleaved, uintptr_t out) {
    require(cos.shape(0) == sin.shape(0) && cos.shape(1) == sin.shape(1), "cos and sin are of different shapes");
    require(2 * cos.shape(1) <= size, "more is rotated than a head has");
    program.rope(at<float>(x), cos.data(), sin.data(), {heads, size, cos.shape(1), interleaved}, at<float>(out));
}

void attention(Program& program, BatchDim rows, uintptr_t q, const CacheSide& k, const CacheSide& v, size_t group,
               std::optional<float> scale, std::optional<size_t> window, std::optional<float> soft_cap,
               const View<float, 1>& sinks, uintptr_t gate, bool exact, uintptr_t out, size_t table, bool causal) {
    require(!window || *window > 0, "a token sees itself");
    require(!soft_cap || *soft_cap > 0, "a cap is positive");
    const AttentionOptions options{scale ? *scale * kLog2E : kLog2E / std::sqrt(static_cast<float>(k.size)),
                                   window.value_or(0),
                                   causal,
                                   soft_cap ? *soft_cap * kLog2E : 0.0f,
                                   floats_of(sinks, k.kv_heads * group, "sinks are one number a head"),
                                   at<float>(gate)};
    program.attention(rows, at<float>(q), {k, v, group, table}, options, exact, at<float>(out));
}

void begin(Program& program, View<int64_t, 1> ids, View<int64_t, 1> starts, View<int64_t, 1> first_positions,
           const std::vector<View<int32_t, 2>>& blocks, size_t block_size, View<int64_t, 1> output_rows,
           View<int64_t, 1> logit_rows) {
    const size_t sequences = first_positions.size();
    const bool some = logit_rows.is_valid();
    Step step{ids.size(),
              ids.data(),
              sequences,
              starts.data(),
              first_positions.data(),
              {},
              output_rows.size(),
              output_rows.data(),
              some ? logit_rows.size() : output_rows.size(),
              some ? logit_rows.data() : nullptr};
    bool same = starts.size() == sequences + 1;
    for (const View<int32_t, 2>& of_kind : blocks) {
        same = same && of_kind.shape(0) == sequences;
        step.tables.push_back({of_kind.data(), of_kind.shape(1), block_size});
    }
    require(same, "starts, positions and tables are not of the same sequences");
    program.begin(step);
}

// What an op reads and writes is called the same everywhere: Python passes it by name.
void bind_ops(nb::class_<Program>& program) {
    program
        .def("embedding", &embedding, "scheme"_a, "blocks"_a.noconvert(), "first"_a, "out"_a, nb::keep_alive<1, 3>())
        .def("select",
             [](Program& program, BatchDim rows, uintptr_t x, size_t width, uintptr_t out) {
                 program.select(rows, at<float>(x), width, at<float>(out));
             },
             "rows"_a, "x"_a, "width"_a, "out"_a)
        .def("add",
             [](Program& program, BatchDim rows, uintptr_t x, uintptr_t y, size_t width, uintptr_t out) {
                 program.add(rows, at<float>(x), at<float>(y), width, at<float>(out));
             },
             "rows"_a, "x"_a, "y"_a, "width"_a, "out"_a)
        .def("gated",
             [](Program& program, BatchDim rows, Activation activation, uintptr_t gate, uintptr_t up, size_t width,
                uintptr_t out) {
                 program.gated(rows, activation, at<float>(gate), at<float>(up), width, at<float>(out));
             },
             "rows"_a, "activation"_a, "gate"_a, "up"_a, "width"_a, "out"_a)
        .def("activate",
             [](Program& program, BatchDim rows, Activation activation, uintptr_t x, size_t width, uintptr_t out) {
                 program.activate(rows, activation, at<float>(x), width, at<float>(out));
             },
             "rows"_a, "activation"_a, "x"_a, "width"_a, "out"_a)
        .def("scale",
             [](Program& program, BatchDim rows, uintptr_t x, float factor, size_t width, uintptr_t out) {
                 program.scale(rows, at<float>(x), factor, width, at<float>(out));
             },
             "rows"_a, "x"_a, "factor"_a, "width"_a, "out"_a)
        .def("soft_cap",
             [](Program& program, BatchDim rows, uintptr_t x, float cap, size_t width, uintptr_t out) {
                 program.soft_cap(rows, at<float>(x), cap, width, at<float>(out));
             },
             "rows"_a, "x"_a, "cap"_a, "width"_a, "out"_a)
        .def("rms_norm",
             [](Program& program, BatchDim rows, uintptr_t x, const View<float, 1>& weight, float eps, size_t heads,
                uintptr_t out) {
                 program.rms_norm(rows, at<float>(x), weight.data(), eps, heads, weight.size(), at<float>(out));
             },
             "rows"_a, "x"_a, "weight"_a.noconvert(), "eps"_a, "heads"_a, "out"_a, nb::keep_alive<1, 4>())
        .def("layer_norm",
             [](Program& program, BatchDim rows, uintptr_t x, const View<float, 1>& weight, const View<float, 1>& bias,
                float eps, uintptr_t out) {
                 const float* const shift = floats_of(bias, weight.size(), "a norm's bias is as long as its weight");
                 program.layer_norm(rows, at<float>(x), weight.data(), shift, eps, weight.size(), at<float>(out));
             },
             "rows"_a, "x"_a, "weight"_a.noconvert(), "bias"_a.noconvert().none(), "eps"_a, "out"_a,
             nb::keep_alive<1, 4>(), nb::keep_alive<1, 5>())
        .def("scale_by_position",
             [](Program& program, uintptr_t x, const View<float, 1>& factors, size_t width, uintptr_t out) {
                 program.scale_by_position(at<float>(x), factors.data(), width, at<float>(out));
             },
             "x"_a, "factors"_a.noconvert(), "width"_a, "out"_a, nb::keep_alive<1, 3>())
        .def("add_by_position",
             [](Program& program, uintptr_t x, const View<float, 2>& table, uintptr_t out) {
                 require(table.shape(0) > 0, "a table has rows");
                 program.add_by_position(at<float>(x), table.data(), table.shape(0), table.shape(1), at<float>(out));
             },
             "x"_a, "table"_a.noconvert(), "out"_a, nb::keep_alive<1, 3>())
        .def("pack",
             [](Program& program, BatchDim rows, Form form, uintptr_t x, size_t columns, uintptr_t out) {
                 program.pack(rows, form, at<float>(x), columns, at<void>(out));
             },
             "rows"_a, "form"_a, "x"_a, "columns"_a, "out"_a)
        .def("linear", &linear, "rows"_a, "form"_a, "packed"_a, "w"_a, "bias"_a.noconvert().none(), "residual"_a = 0,
             "out"_a, nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>())
        .def("gated_linear", &gated_linear, "rows"_a, "form"_a, "packed"_a, "gate"_a, "up"_a, "activation"_a, "out"_a,
             nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>())
        .def("mixture", &mixture, "rows"_a, "x"_a, "logits"_a, "router"_a, "gate"_a.none(), "up"_a, "down"_a, "held"_a,
             "first"_a, "gate_bias"_a.noconvert().none(), "up_bias"_a.noconvert().none(),
             "down_bias"_a.noconvert().none(), "activation"_a, "weighs_input"_a, "form"_a, "down_form"_a, "width"_a,
             "hidden"_a, "out"_a, nb::keep_alive<1, 5>(), nb::keep_alive<1, 6>(), nb::keep_alive<1, 7>(),
             nb::keep_alive<1, 8>(), nb::keep_alive<1, 11>(), nb::keep_alive<1, 12>(), nb::keep_alive<1, 13>())
        .def("gate_rows",
             [](Program& program, BatchDim rows, uintptr_t x, uintptr_t gate, size_t width, uintptr_t out) {
                 program.gate_rows(rows, at<float>(x), at<float>(gate), width, at<float>(out));
             },
             "rows"_a, "x"_a, "gate"_a, "width"_a, "out"_a)
        .def("head_linear",
             [](Program& program, BatchDim rows, Form form, uintptr_t x, const Matrix& w, size_t heads, size_t width,
                uintptr_t out) {
                 require(w.rows == heads * ((width + kPanel - 1) / kPanel) * kPanel, "there is a matrix for each head");
                 program.head_linear(rows, form, at<float>(x), {w, width}, heads, at<float>(out));
             },
             "rows"_a, "form"_a, "x"_a, "w"_a, "heads"_a, "width"_a, "out"_a, nb::keep_alive<1, 5>())
        .def("split_heads",
             [](Program& program, BatchDim rows, uintptr_t x, size_t heads, size_t size, size_t first, size_t count,
                uintptr_t out) {
                 require(first + count <= size, "a head has fewer elements");
                 program.split_heads(rows, at<float>(x), heads, size, {first, first + count}, at<float>(out));
             },
             "rows"_a, "x"_a, "heads"_a, "size"_a, "first"_a, "count"_a, "out"_a)
        .def("join_heads",
             [](Program& program, BatchDim rows, uintptr_t a, uintptr_t b, size_t heads, size_t a_size, size_t b_size,
                uintptr_t out) {
                 program.join_heads(rows, at<float>(a), at<float>(b), heads, a_size, b_size, at<float>(out));
             },
             "rows"_a, "a"_a, "b"_a, "heads"_a, "a_size"_a, "b_size"_a, "out"_a)
        .def("rope", &rope, "x"_a, "cos"_a.noconvert(), "sin"_a.noconvert(), "heads"_a, "size"_a, "interleaved"_a,
             "out"_a, nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
        .def("write_cache",
             [](Program& program, uintptr_t x, const CacheSide& side, size_t table) {
                 program.write_cache(at<float>(x), side, table);
             },
             "x"_a, "side"_a, "table"_a = 0, nb::keep_alive<1, 3>())
        .def("attention", &attention, "rows"_a, "q"_a, "k"_a, "v"_a, "group"_a, "scale"_a.none(), "window"_a.none(),
             "soft_cap"_a.none(), "sinks"_a.noconvert().none(), "gate"_a = 0, "exact"_a, "out"_a, "table"_a = 0,
             "causal"_a = true, nb::keep_alive<1, 4>(), nb::keep_alive<1, 5>(), nb::keep_alive<1, 10>());
}

void bind_exchanges(nb::class_<Program>& program) {
    program
        .def("all_reduce",
             [](Program& program, TPGroup& group, BatchDim rows, uintptr_t x, size_t width, bool contributes,
                uintptr_t residual, uintptr_t out) {
                 program.all_reduce(group, rows, at<float>(x), width, contributes, at<float>(residual), at<float>(out));
             },
             "group"_a, "rows"_a, "x"_a, "width"_a, "contributes"_a, "residual"_a = 0, "out"_a, nb::keep_alive<1, 2>())
        .def("gather",
             [](Program& program, TPGroup& group, BatchDim rows, uintptr_t x, std::vector<size_t> widths,
                uintptr_t out) { program.gather(group, rows, at<float>(x), std::move(widths), at<float>(out)); },
             "group"_a, "rows"_a, "x"_a, "widths"_a, "out"_a, nb::keep_alive<1, 2>())
        .def("send",
             [](Program& program, StageLink& link, uintptr_t x, size_t width) {
                 program.send(link, at<float>(x), width);
             },
             "link"_a, "x"_a, "width"_a, nb::keep_alive<1, 2>())
        .def("receive",
             [](Program& program, StageLink& link, size_t receiver, size_t width, uintptr_t out) {
                 program.receive(link, receiver, width, at<float>(out));
             },
             "link"_a, "receiver"_a, "width"_a, "out"_a, nb::keep_alive<1, 2>());
}

}  // namespace

void bind_program(nb::module_& module) {
    bind_enums(module);
    nb::class_<Cpu>(module, "Cpu")
        .def(nb::init<const std::string&, size_t>(), "isa"_a, "threads"_a)
        .def_prop_ro("has_bfloats", [](const Cpu& cpu) { return cpu.kernels.bfloats.linear != nullptr; })
        .def("packed_bytes", [](const Cpu& cpu, Form form, size_t tokens, size_t columns) {
            return cpu.kernels.products(form).bytes(tokens, columns);
        });
    bind_tensors(module);
    module.attr("MAX_HEAD") = kMaxHead;

    nb::class_<Program> program(module, "Program");
    program
        .def("__init__",
             [](Program* program, Cpu& cpu, uintptr_t progress) {
                 new (program) Program(cpu.kernels, cpu.pool, at<std::atomic<uint64_t>>(progress));
             },
             nb::keep_alive<1, 2>())
        .def("barrier", &Program::barrier)
        .def("end_segment", &Program::end_segment)
        .def("begin", &begin, "ids"_a.noconvert(), "starts"_a.noconvert(), "first_positions"_a.noconvert(),
             "blocks"_a.noconvert(), "block_size"_a, "output_rows"_a.noconvert(),
             "logit_rows"_a.noconvert().none() = nb::none())
        .def("run", &Program::run, nb::call_guard<nb::gil_scoped_release>());
    bind_ops(program);
    bind_exchanges(program);
}

}  // namespace rowspan
