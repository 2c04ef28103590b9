// Shared memory between ranks for Python: src/rowspan/comm/shared.py. Ranks that compute natively have their programs use
// it; these functions are for all others, by one thread.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bind.hpp"
#include "row_group.hpp"
#include "stage_link.hpp"

namespace nb = nanobind;

namespace rowspan {

using NoGil = nb::call_guard<nb::gil_scoped_release>;

void bind_exchange(nb::module_& module) {
    nb::class_<RowGroup>(module, "RowGroup")
        .def("__init__",
             [](RowGroup* group, const std::string& isa, uintptr_t memory, size_t ranks, size_t rank, size_t slot,
                size_t looks) {
                 if (ranks > RowGroup::kMostRanks) throw std::invalid_argument("too many ranks in one row group");
                 new (group) RowGroup(kernels_named(isa), at<void>(memory), ranks, rank, slot, looks);
             })
        .def_static("nbytes", &RowGroup::nbytes, nb::arg("ranks"), nb::arg("slot"))
        .def_ro_static("most_ranks", &RowGroup::kMostRanks)
        .def("sum_acts", &RowGroup::sum_acts)
        .def("gather_acts", &RowGroup::gather_acts)
        .def("all_reduce",
             [](RowGroup& group, uint32_t act, uintptr_t x, size_t floats, bool contributes, uintptr_t out) {
                 Barrier barrier;
                 group.all_reduce(act, at<float>(x), floats, contributes, nullptr, at<float>(out), {0, 1, barrier});
             },
             NoGil())
        .def("gather",
             [](RowGroup& group, uint32_t act, uintptr_t x, size_t rows, const std::vector<size_t>& widths,
                uintptr_t whole) {
                 Barrier barrier;
                 group.gather(act, at<float>(x), rows, widths, at<float>(whole), {0, 1, barrier});
             },
             NoGil());

    nb::class_<StageLink>(module, "StageLink")
        .def("__init__",
             [](StageLink* link, uintptr_t memory, size_t receivers, size_t slot, size_t looks) {
                 new (link) StageLink(at<void>(memory), receivers, slot, looks);
             })
        .def_static("nbytes", &StageLink::nbytes, nb::arg("receivers"), nb::arg("slot"))
        .def("send",
             [](StageLink& link, uint32_t message, uintptr_t x, size_t floats) {
                 Barrier barrier;
                 link.send(message, at<float>(x), {0, floats}, {0, 1, barrier});
             },
             NoGil())
        .def("receive",
             [](StageLink& link, uint32_t message, size_t receiver, uintptr_t out, size_t floats) {
                 Barrier barrier;
                 link.receive(message, receiver, at<float>(out), {0, floats}, {0, 1, barrier});
             },
             NoGil());
}

}  // namespace rowspan
