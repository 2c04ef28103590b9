// Packing for Python: src/rowspan/quant/panels.py. Sizes are checked here, since a wrong one would corrupt memory.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "bind.hpp"
#include "pack.hpp"

namespace nb = nanobind;

namespace rowspan {
namespace {

template <typename T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

// The data of an array of exactly that size; null for None, where the size has to be 0.
template <typename T>
T* data_of(const Array<T>& array, size_t size) {
    const bool given = array.is_valid();
    if ((given ? array.size() : 0) != size) throw std::invalid_argument("an array does not fit the packed matrix");
    return given ? array.data() : nullptr;
}

void pack_rows(const std::string& scheme, nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu> raw,
               Array<uint8_t> codes, Array<uint16_t> scales, Array<uint8_t> exponents, Array<uint16_t> minima,
               Array<int8_t> sub_scales, Array<int8_t> sub_minima, Array<uint8_t> e4m3, Array<uint8_t> odd_factors,
               Cpu& cpu) {
    if (raw.size() > 0 && raw.shape(1) > 1 && raw.stride(1) != 1) {
        throw std::invalid_argument("bytes of a row are not side by side");
    }
    const BlockFormat& format = block_format(scheme);
    const size_t rows = raw.shape(0), columns = format.columns(raw.shape(1));
    const PackedSizes sizes = format.sizes(rows, columns);
    const BlockRows from{raw.data(), static_cast<size_t>(raw.stride(0)), rows, columns};
    const PackedArrays to{data_of(codes, sizes.codes), data_of(scales, sizes.scales),
                          data_of(exponents, sizes.exponents), data_of(minima, sizes.minima),
                          data_of(sub_scales, sizes.sub_scales), data_of(sub_minima, sizes.sub_minima),
                          data_of(e4m3, sizes.e4m3), data_of(odd_factors, sizes.odd_factors)};
    nb::gil_scoped_release released;
    // Each thread packs the panels that it computes with when tokens are few, so that on a machine of several memory nodes
    // they lie in its own: the system takes a page from the node of the thread that first writes to it.
    cpu.pool.run([&](const Team& team) {
        const Range mine = team.share((rows + kPanel - 1) / kPanel);
        format.pack(from, to, mine.from, mine.to);
    });
}

void dequantize(const std::string& scheme, Array<const uint8_t> row, Array<float> out) {
    const BlockFormat& format = block_format(scheme);
    const size_t columns = format.columns(row.size());
    format.dequantize_row(row.data(), columns, data_of(out, columns));
}

}  // namespace

void bind_pack(nb::module_& module) {
    module.def("pack", &pack_rows, "Repack rows of blocks: (rows, bytes) to the arrays of a `Matrix`.",
               nb::arg("scheme"), nb::arg("raw").noconvert(), nb::arg("codes").noconvert(),
               nb::arg("scales").noconvert().none(), nb::arg("exponents").noconvert().none(),
               nb::arg("minima").noconvert().none(),
               nb::arg("sub_scales").noconvert().none(), nb::arg("sub_minima").noconvert().none(),
               nb::arg("e4m3").noconvert().none(), nb::arg("odd_factors").noconvert().none(), nb::arg("cpu"));
    module.def("dequantize_row", &dequantize, "Write the elements of one row of blocks to `out`.",
               nb::arg("scheme"), nb::arg("row").noconvert(), nb::arg("out").noconvert());
}

}  // namespace rowspan
