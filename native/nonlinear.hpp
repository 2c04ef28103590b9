// The nonlinear functions of models, of a vector each. Products are added explicitly fused, as a compiler may or may not
// do so: an element has the same bits wherever its function is inlined.
#pragma once

#include "kernels.hpp"
#include "vector_math.hpp"

namespace rowspan::ROWSPAN_ISA {

inline Vec sigmoid(Vec x) { return Vec::all(1.0f) / (Vec::all(1.0f) + exp(Vec::zero() - x)); }

// x · sigmoid(slope · x)
inline Vec swish(Vec x, Vec slope) { return x / (Vec::all(1.0f) + exp(Vec::zero() - slope * x)); }
inline Vec silu(Vec x) { return x / (Vec::all(1.0f) + exp(Vec::zero() - x)); }

// cap · tanh(scale · x / cap)
inline Vec soft_capped(Vec x, float scale, float cap) { return Vec::all(cap) * tanh(x * Vec::all(scale / cap)); }

// An activation: of one number, and of a gate that is multiplied by up.
struct Silu {
    static Vec of(Vec x) { return silu(x); }
    static Vec gated(Vec gate, Vec up) { return of(gate) * up; }
};

// (1 + tanh(u)) / 2 = sigmoid(2 u), which keeps its precision far below zero.
struct Gelu {
    static Vec of(Vec x) {
        constexpr float kTwiceRoot = 1.59576912f;  // 2 · sqrt(2 / π)
        return swish(x, Vec::all(kTwiceRoot) * Vec::fma(x * x, Vec::all(0.044715f), Vec::all(1.0f)));
    }
    static Vec gated(Vec gate, Vec up) { return of(gate) * up; }
};

// x · Φ(x), exactly, as Φ(-|x|) = erfc(|x| / √2) / 2; erfc within 1.2e-7 of itself, by Chebyshev's fit of Press et al.,
// "Numerical Recipes" (1992), chapter 6.2.
struct GeluErf {
    static Vec of(Vec x) {
        constexpr float kFit[] = {0.17087277f,  -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                                  -0.18628806f, 0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
        const Vec size = Vec::max(x, Vec::zero() - x);
        const Vec t = Vec::all(1.0f) / Vec::fma(size, Vec::all(0.353553391f), Vec::all(1.0f));
        Vec y = Vec::all(kFit[0]);
#pragma GCC unroll 9
        for (size_t i = 1; i < 10; ++i) y = Vec::fma(y, t, Vec::all(kFit[i]));
        const Vec tail = Vec::all(0.5f) * t * exp(Vec::fma(x * x, Vec::all(-0.5f), y));
        return Vec::fma(Vec::zero() - size, tail, Vec::max(Vec::zero(), x));
    }
    static Vec gated(Vec gate, Vec up) { return of(gate) * up; }
};

struct Relu2 {
    static Vec of(Vec x) {
        const Vec positive = Vec::max(Vec::zero(), x);
        return positive * positive;
    }
    static Vec gated(Vec gate, Vec up) { return of(gate) * up; }
};

// The activation of gpt-oss; it has no form without a gate.
struct ClampedSwiglu {
    static Vec of(Vec x) { return swish(Vec::min(Vec::all(kLimit), x), Vec::all(1.702f)); }
    static Vec gated(Vec gate, Vec up) {
        return of(gate) * (Vec::min(Vec::all(kLimit), Vec::max(Vec::all(-kLimit), up)) + Vec::all(1.0f));
    }
    static constexpr float kLimit = 7.0f;
};

// run(the activation)
template <typename Run>
inline void with_activation(Activation activation, Run run) {
    switch (activation) {
        case Activation::silu: return run(Silu());
        case Activation::gelu: return run(Gelu());
        case Activation::gelu_erf: return run(GeluErf());
        case Activation::relu2: return run(Relu2());
        case Activation::clamped_swiglu: return run(ClampedSwiglu());
    }
}

}  // namespace rowspan::ROWSPAN_ISA
