// Makes numbers known to the compiler: a loop's counter, since tile registers are chosen at compile time; and the number
// of rows that are computed together, as many as registers have room for.
#pragma once

#include <cstddef>
#include <utility>

namespace rowspan::ROWSPAN_ISA {

template <typename Visit, int... Index>
inline void visit_each(std::integer_sequence<int, Index...>, const Visit& visit) {
    (visit(std::integral_constant<int, Index>{}), ...);
}

// Call visit(a type whose `value` is the number) for 0 … Count - 1.
template <int Count, typename Visit>
inline void each(const Visit& visit) {
    visit_each(std::make_integer_sequence<int, Count>{}, visit);
}

// Computes several rows together.
template <size_t Rows>
struct Block {
    static constexpr size_t rows = Rows;
};

template <size_t Most, typename Visit>
inline void visit_block(size_t n_rows, size_t r, Visit visit) {
    if (n_rows >= Most) return visit(Block<Most>(), r);
    if constexpr (Most > 1) visit_block<Most - 1>(n_rows, r, visit);
}

}  // namespace rowspan::ROWSPAN_ISA
