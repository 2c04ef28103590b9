// Shared memory between ranks for Python: src/rowspan/comm/shared.py. Ranks that compute natively have their programs use
// it; these functions are for all others, by one thread.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bind.hpp"
#include "tp_group.hpp"
#include "stage_link.hpp"

namespace nb = nanobind;

namespace rowspan {

using NoGil = nb::call_guard<nb::gil_scoped_release>;

void bind_exchange(nb::module_& module) {
    nb::class_<TPGroup>(module, "TPGroup")
        .def("__init__",
             [](TPGroup* group, const std::string& isa, uintptr_t memory, size_t ranks, size_t rank, size_t slot,
                size_t spins) {
                 if (ranks > TPGroup::kMostRanks) throw std::invalid_argument("too many ranks in one TP group");
                 new (group) TPGroup(kernels_named(isa), at<void>(memory), ranks, rank, slot, spins);
             })
        .def_static("nbytes", &TPGroup::nbytes, nb::arg("ranks"), nb::arg("slot"))
        .def_ro_static("most_ranks", &TPGroup::kMostRanks)
        .def("sum_sequences", &TPGroup::sum_sequences)
        .def("gather_sequences", &TPGroup::gather_sequences)
        .def("all_reduce",
             [](TPGroup& group, uint32_t sequence, uintptr_t x, size_t floats, bool contributes, uintptr_t out) {
                 Barrier barrier;
                 group.all_reduce(sequence, at<float>(x), floats, contributes, nullptr, at<float>(out),
                                  {0, 1, barrier});
             },
             NoGil())
        .def("gather",
             [](TPGroup& group, uint32_t sequence, uintptr_t x, size_t rows, const std::vector<size_t>& widths,
                uintptr_t whole) {
                 Barrier barrier;
                 group.gather(sequence, at<float>(x), rows, widths, at<float>(whole), {0, 1, barrier});
             },
             NoGil());

    nb::class_<StageLink>(module, "StageLink")
        .def("__init__",
             [](StageLink* link, uintptr_t memory, size_t receivers, size_t slot, size_t spins) {
                 new (link) StageLink(at<void>(memory), receivers, slot, spins);
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
