// The exponential of a vector.
#pragma once

#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

// e to the power of each element, within 2 ulp. Inputs below -87 (denormal results, slow) and above 88 (overflow) are
// clamped to these; NaN stays NaN. Cody and Waite's reduction to |x| ≤ ln(2) / 2 and the minimax polynomial of Cephes.
inline Vec exp(Vec x) {
    // The bound comes first: of two operands the processor returns the second if either is NaN.
    x = Vec::min(Vec::all(88.0f), Vec::max(Vec::all(-87.0f), x));
    const Vec power = Vec::round(x * Vec::all(1.44269504f));
    // ln(2) in two parts: the first has so few bits that its product with the power is exact.
    x = Vec::fma(power, Vec::all(-0.693359375f), x);
    x = Vec::fma(power, Vec::all(2.12194440e-4f), x);
    Vec y = Vec::all(1.9875691500e-4f);
    y = Vec::fma(y, x, Vec::all(1.3981999507e-3f));
    y = Vec::fma(y, x, Vec::all(8.3334519073e-3f));
    y = Vec::fma(y, x, Vec::all(4.1665795894e-2f));
    y = Vec::fma(y, x, Vec::all(1.6666665459e-1f));
    y = Vec::fma(y, x, Vec::all(5.0000001201e-1f));
    y = Vec::fma(y, x * x, x);
    return (y + Vec::all(1.0f)) * Vec::exp2i(power);
}

}  // namespace rowspan::ROWSPAN_ISA
