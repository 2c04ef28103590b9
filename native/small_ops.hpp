// The ops between the matrix products. Only functions of this namespace are called, none of the standard library's
// templates: the linker would keep one instance of those for all instruction sets.
#pragma once

#include "nonlinear.hpp"
#include "simd.hpp"
#include "team.hpp"

namespace rowspan::ROWSPAN_ISA {

// A vector with the first n < width elements at p, then zeros.
inline Vec load_part(const float* p, size_t n) {
    float padded[Vec::width] = {};
    for (size_t i = 0; i < n; ++i) padded[i] = p[i];
    return Vec::load(padded);
}

inline void store_part(Vec x, float* p, size_t n) {
    float padded[Vec::width];
    x.store(padded);
    for (size_t i = 0; i < n; ++i) p[i] = padded[i];
}

inline void rms_norm(const float* x, const float* weight, float eps, size_t width, float* out, Range rows) {
    const size_t whole = width / Vec::width * Vec::width;
    const size_t rest = width - whole;
    for (size_t row = rows.from; row < rows.to; ++row) {
        const float* from = x + row * width;
        float* to = out + row * width;

        const Vec end = load_part(from + whole, rest);
        Vec squares = end * end;
        for (size_t i = 0; i < whole; i += Vec::width) {
            const Vec part = Vec::load(from + i);
            squares = Vec::fma(part, part, squares);
        }
        const Vec scale = Vec::all(1.0f / __builtin_sqrtf(squares.sum() / static_cast<float>(width) + eps));

        for (size_t i = 0; i < whole; i += Vec::width) {
            (Vec::load(from + i) * scale * Vec::load(weight + i)).store(to + i);
        }
        store_part(end * scale * load_part(weight + whole, rest), to + whole, rest);
    }
}

inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, size_t width, float* out,
                       Range rows) {
    const size_t whole = width / Vec::width * Vec::width;
    const size_t rest = width - whole;
    for (size_t row = rows.from; row < rows.to; ++row) {
        const float* from = x + row * width;
        float* to = out + row * width;

        const Vec end = load_part(from + whole, rest);
        Vec sums = end;
        for (size_t i = 0; i < whole; i += Vec::width) sums = sums + Vec::load(from + i);
        const float average = sums.sum() / static_cast<float>(width);
        const Vec mean = Vec::all(average);

        float padding[Vec::width];
        for (size_t i = 0; i < Vec::width; ++i) padding[i] = i < rest ? from[whole + i] - average : 0.0f;
        const Vec last = Vec::load(padding);
        Vec squares = last * last;
        for (size_t i = 0; i < whole; i += Vec::width) {
            const Vec part = Vec::load(from + i) - mean;
            squares = Vec::fma(part, part, squares);
        }
        const Vec scale = Vec::all(1.0f / __builtin_sqrtf(squares.sum() / static_cast<float>(width) + eps));

        const auto shifted = [bias](Vec y, size_t i, size_t n) {
            if (!bias) return y;
            return y + (n == Vec::width ? Vec::load(bias + i) : load_part(bias + i, n));
        };
        for (size_t i = 0; i < whole; i += Vec::width) {
            const Vec y = (Vec::load(from + i) - mean) * scale * Vec::load(weight + i);
            shifted(y, i, Vec::width).store(to + i);
        }
        store_part(shifted(last * scale * load_part(weight + whole, rest), whole, rest), to + whole, rest);
    }
}

// out = value(loading) of these elements; loading(from) reads as many of an array as there are in a vector. The last few
// go through the same vector code: an element's bits must not depend on where the work was cut.
template <typename Value>
inline void by_elements(Range elements, float* out, Value value) {
    size_t i = elements.from;
    for (; i + Vec::width <= elements.to; i += Vec::width)
        value([=](const float* from) { return Vec::load(from + i); }).store(out + i);
    const size_t rest = elements.to - i;
    if (rest) store_part(value([=](const float* from) { return load_part(from + i, rest); }), out + i, rest);
}

inline void gated(Activation activation, const float* gate, const float* up, float* out, Range elements) {
    with_activation(activation, [=](auto function) {
        by_elements(elements, out, [=](auto loading) { return function.gated(loading(gate), loading(up)); });
    });
}

inline void activate(Activation activation, const float* x, float* out, Range elements) {
    with_activation(activation, [=](auto function) {
        by_elements(elements, out, [=](auto loading) { return function.of(loading(x)); });
    });
}

inline void scale(const float* x, float factor, float* out, Range elements) {
    by_elements(elements, out, [=](auto loading) { return loading(x) * Vec::all(factor); });
}

inline void soft_cap(const float* x, float cap, float* out, Range elements) {
    by_elements(elements, out, [=](auto loading) { return soft_capped(loading(x), 1.0f, cap); });
}

inline void sum(const float* const* parts, size_t n, float* out, Range elements) {
    size_t i = elements.from;
    for (; i + Vec::width <= elements.to; i += Vec::width) {
        Vec total = n ? Vec::load(parts[0] + i) : Vec::zero();
        for (size_t part = 1; part < n; ++part) total = total + Vec::load(parts[part] + i);
        total.store(out + i);
    }
    for (; i < elements.to; ++i) {
        float total = n ? parts[0][i] : 0.0f;
        for (size_t part = 1; part < n; ++part) total += parts[part][i];
        out[i] = total;
    }
}

inline void rope(const float* x, const float* cos, const float* sin, const int64_t* positions, size_t heads, size_t size,
                 size_t half, bool interleaved, float* out, Range tokens) {
    // The pair i of a head is at i · step and i · step + gap.
    const size_t step = interleaved ? 2 : 1;
    const size_t gap = interleaved ? 1 : half;
    for (size_t token = tokens.from; token < tokens.to; ++token) {
        const float* c = cos + static_cast<size_t>(positions[token]) * half;
        const float* s = sin + static_cast<size_t>(positions[token]) * half;
        for (size_t head = 0; head < heads; ++head) {
            const float* from = x + (token * heads + head) * size;
            float* to = out + (token * heads + head) * size;
            size_t i = 0;
            for (; !interleaved && i + Vec::width <= half; i += Vec::width) {
                const Vec a = Vec::load(from + i), b = Vec::load(from + gap + i);
                const Vec cosines = Vec::load(c + i), sines = Vec::load(s + i);
                (a * cosines - b * sines).store(to + i);
                (a * sines + b * cosines).store(to + gap + i);
            }
            for (; i < half; ++i) {
                const float a = from[i * step], b = from[i * step + gap];
                to[i * step] = a * c[i] - b * s[i];
                to[i * step + gap] = a * s[i] + b * c[i];
            }
            for (i = 2 * half; i < size; ++i) to[i] = from[i];
        }
    }
}

}  // namespace rowspan::ROWSPAN_ISA
