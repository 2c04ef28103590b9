// Exponentials and hyperbolic tangent of a vector's elements.
#pragma once

#include "simd.hpp"

namespace rowspan::ROWSPAN_ISA {

// A number added to 1.5 · 2²³ is rounded to an integer, which the sum's lowest bits hold.
constexpr float kRounder = 12582912.0f;

// Polynomials of (2ˣ - 1) / x on |x| ≤ 1 / 2, highest power first, with the least relative error of 2ˣ (Lawson's
// iteration): 9.2e-8, as floats are computed with, and 2.8e-6, for what is rounded to 15 bits anyway.
constexpr float kExp2[] = {1.326472731e-3f, 9.671512991e-3f, 5.550733581e-2f, 2.402224243e-1f, 6.931470037e-1f};
constexpr float kCoarseExp2[] = {9.582852945e-3f, 5.590642616e-2f, 2.402409911e-1f, 6.931241751e-1f};

// 2 to the power of each element, none above 0, to 2e-7 or, coarse, 3e-6. Inputs below -125 (denormal results, slow) are
// clamped to it; NaN stays NaN.
template <size_t Terms>
inline Vec exp2(Vec x, const float (&polynomial)[Terms]) {
    // The bound comes first: of two operands the processor returns the second if either is NaN.
    x = Vec::max(Vec::all(-125.0f), x);
    const Vec power = x + Vec::all(kRounder);
    x = x - (power - Vec::all(kRounder));
    Vec y = Vec::all(polynomial[0]);
#pragma GCC unroll 8
    for (size_t i = 1; i < Terms; ++i) y = Vec::fma(y, x, Vec::all(polynomial[i]));
    return Vec::add_exponent(Vec::fma(y, x, Vec::all(1.0f)), power);
}
inline Vec exp2(Vec x) { return exp2(x, kExp2); }

// e to the power of each element, within 2 ulp. Inputs below -87 (denormal results, slow) and above 88 (overflow) are
// clamped to these; NaN stays NaN. Cody and Waite's reduction to |x| ≤ ln(2) / 2 and the minimax polynomial of Cephes.
inline Vec exp(Vec x) {
    x = Vec::min(Vec::all(88.0f), Vec::max(Vec::all(-87.0f), x));
    const Vec power = Vec::fma(x, Vec::all(1.44269504f), Vec::all(kRounder)), whole = power - Vec::all(kRounder);
    // ln(2) in two parts: the first has so few bits that its product with the power is exact.
    x = Vec::fma(whole, Vec::all(-0.693359375f), x);
    x = Vec::fma(whole, Vec::all(2.12194440e-4f), x);
    Vec y = Vec::all(1.9875691500e-4f);
    y = Vec::fma(y, x, Vec::all(1.3981999507e-3f));
    y = Vec::fma(y, x, Vec::all(8.3334519073e-3f));
    y = Vec::fma(y, x, Vec::all(4.1665795894e-2f));
    y = Vec::fma(y, x, Vec::all(1.6666665459e-1f));
    y = Vec::fma(y, x, Vec::all(5.0000001201e-1f));
    y = Vec::fma(y, x * x, x);
    return Vec::add_exponent(y + Vec::all(1.0f), power);
}

// The hyperbolic tangent of each element, within 4 ulp; NaN stays NaN. Eigen's quotient of polynomials
// (https://gitlab.com/libeigen/eigen); from the bound on, the nearest float is ±1.
inline Vec tanh(Vec x) {
    constexpr float kBound = 7.90531110763549805f;
    constexpr float kAbove[] = {-2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f,
                                5.12229709037114e-08f,  1.48572235717979e-05f, 6.37261928875436e-04f,
                                4.89352455891786e-03f};
    constexpr float kBelow[] = {1.19825839466702e-06f, 1.18534705686654e-04f, 2.26843463243900e-03f,
                                4.89352518554385e-03f};
    x = Vec::min(Vec::all(kBound), Vec::max(Vec::all(-kBound), x));
    const Vec square = x * x;
    Vec above = Vec::all(kAbove[0]), below = Vec::all(kBelow[0]);
#pragma GCC unroll 8
    for (size_t i = 1; i < 7; ++i) above = Vec::fma(above, square, Vec::all(kAbove[i]));
#pragma GCC unroll 8
    for (size_t i = 1; i < 4; ++i) below = Vec::fma(below, square, Vec::all(kBelow[i]));
    return x * above / below;
}

}  // namespace rowspan::ROWSPAN_ISA
