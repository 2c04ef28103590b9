// A loop whose counter is known to the compiler: tile registers are chosen by number when it compiles.
#pragma once

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

}  // namespace rowspan::ROWSPAN_ISA
