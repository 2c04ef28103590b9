// The machine's ceilings, measured on request.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include <map>
#include <string>

#include "ceilings.hpp"

namespace nb = nanobind;

namespace rowspan {

std::map<std::string, double> operation_rates(size_t threads, size_t runs) {
    std::map<std::string, double> rates;
    for (const ceilings::Unit& unit : ceilings::units())
        if (unit.available) rates[unit.name] = ceilings::operation_rate(unit, threads, runs);
    return rates;
}

void bind_ceilings(nb::module_& module) {
    module.def("read_bandwidth", &ceilings::read_bandwidth, nb::arg("threads"), nb::arg("bytes"), nb::arg("runs"),
               nb::call_guard<nb::gil_scoped_release>(), "Bytes per second read from memory.");
    module.def("operation_rates", &operation_rates, nb::arg("threads"), nb::arg("runs"),
               nb::call_guard<nb::gil_scoped_release>(),
               "Operations per second out of registers, two to a multiply-add, by unit: \"f32 avx2\", \"int8 amx\".");
}

}  // namespace rowspan
