#include "pack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "unpack.hpp"

namespace rowspan {
namespace {

constexpr size_t kPieceBytes = 256;  // of each row's codes, done at once: a panel's stay in the first-level cache

// A float16, exactly; without branches, so that many are done at once.
float from_half(uint16_t half) {
    const uint32_t magnitude = half & 0x7fff, sign = (half & 0x8000u) << 16;
    const float small = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;  // right of subnormal numbers
    const uint32_t is_small = -static_cast<uint32_t>(magnitude < 0x400);
    const uint32_t is_special = -static_cast<uint32_t>(magnitude >= 0x7c00);  // infinities and NaNs: highest exponent
    const uint32_t large = (magnitude << 13) + (112u << 23) + (is_special & 112u << 23);
    const uint32_t bits = sign | (load<uint32_t>(&small) & is_small) | (large & ~is_small);
    return load<float>(&bits);
}

// Dense types: what an element is in memory, and as a number; whether neighbours stay side by side in a panel.
struct F32 {
    static constexpr int kType = 0;
    static constexpr bool kPairs = false;
    using Element = uint32_t;
    static float number(Element element) { return load<float>(&element); }
};

struct F16 {
    static constexpr int kType = 1;
    static constexpr bool kPairs = false;
    using Element = uint16_t;
    static float number(Element element) { return from_half(element); }
};

struct BF16 {
    static constexpr int kType = 30;
    static constexpr bool kPairs = true;
    using Element = uint16_t;
    static float number(Element element) {
        const uint32_t bits = static_cast<uint32_t>(element) << 16;
        return load<float>(&bits);
    }
};

template <typename Scheme, typename = void>
constexpr bool is_dense = false;
template <typename Scheme>
constexpr bool is_dense<Scheme, std::void_t<typename Scheme::Element>> = true;

// use(Scheme{}) with the scheme of that number.
template <typename Use>
auto with_scheme(int ggml_type, const Use& use) {
    switch (ggml_type) {
        case F32::kType: return use(F32{});
        case F16::kType: return use(F16{});
        case BF16::kType: return use(BF16{});
        case Q8_0::kType: return use(Q8_0{});
        case Q4_0::kType: return use(Q4_0{});
        case Q4_1::kType: return use(Q4_1{});
        case Q5_0::kType: return use(Q5_0{});
        case Q5_1::kType: return use(Q5_1{});
        case Q2_K::kType: return use(Q2_K{});
        case Q3_K::kType: return use(Q3_K{});
        case Q4_K::kType: return use(Q4_K{});
        case Q5_K::kType: return use(Q5_K{});
        case Q6_K::kType: return use(Q6_K{});
        default: throw std::invalid_argument("no packing of ggml type " + std::to_string(ggml_type));
    }
}

// The first n elements of 16 lanes → (n, 16).
template <typename T, size_t width>
void transpose(const T (&lanes)[kPanel][width], size_t n, T* __restrict out) {
    for (size_t i = 0; i < n; ++i)
        for (size_t lane = 0; lane < kPanel; ++lane) out[i * kPanel + lane] = lanes[lane][i];
}

// The columns of a dense panel, those included that only fill it up.
template <typename Scheme>
size_t panel_columns(size_t columns) {
    if constexpr (Scheme::kPairs) return whole_bfloats(columns);
    return columns;
}

template <typename Scheme>
void pack_dense_panel(const BlockRows& from, void* codes, size_t panel) {
    using Element = typename Scheme::Element;
    // What is moved as one: an element, or two neighbours.
    using Unit = std::conditional_t<Scheme::kPairs, uint32_t, Element>;
    constexpr size_t piece = kPieceBytes / sizeof(Element), per_unit = sizeof(Unit) / sizeof(Element);
    const size_t first_row = panel * kPanel, lanes_used = std::min(kPanel, from.rows - first_row);
    const size_t columns = panel_columns<Scheme>(from.columns);
    Unit* out = static_cast<Unit*>(codes) + first_row * columns / per_unit;
    alignas(64) Unit lanes[kPanel][piece / per_unit] = {};
    for (size_t column = 0; column < from.columns; column += piece) {
        const size_t n = std::min(piece, from.columns - column), filled = std::min(piece, columns - column);
        for (size_t lane = 0; lane < lanes_used; ++lane) {
            auto* to = reinterpret_cast<unsigned char*>(lanes[lane]);
            std::memcpy(to, from.data + (first_row + lane) * from.stride + column * sizeof(Element), n * sizeof(Element));
            std::memset(to + n * sizeof(Element), 0, (filled - n) * sizeof(Element));
        }
        transpose(lanes, filled / per_unit, out + column / per_unit * kPanel);
    }
}

// Codes of one lane in the order of columns → words of four bytes in the order of `Matrix`.
template <Codes kind>
void to_words(const uint8_t* __restrict codes, size_t n, uint32_t* __restrict words) {
    const auto four = [codes](size_t column) { return load<uint32_t>(codes + column); };
    if constexpr (kind == Codes::u8) {
        std::memcpy(words, codes, n);
    } else if constexpr (kind == Codes::u4) {
        for (size_t at = 0; at < n; at += 8) *words++ = four(at) | four(at + 4) << 4;
    } else {
        static_assert(kind == Codes::u6);
        constexpr uint32_t lower = 0x0f0f0f0f, upper = 0x30303030;
        for (size_t at = 0; at < n; at += 16) {
            const uint32_t a = four(at), b = four(at + 4), c = four(at + 8), d = four(at + 12);
            *words++ = (a & lower) | (b & lower) << 4;
            *words++ = (c & lower) | (d & lower) << 4;
            *words++ = (a & upper) >> 4 | (b & upper) >> 2 | (c & upper) | (d & upper) << 2;
        }
    }
}

// A lane's factors of one block of a panel.
template <typename Scheme>
void put(const Factors& factors, const PackedArrays& to, size_t block, size_t lane) {
    to.scales[block * kPanel + lane] = factors.scale;
    if constexpr (Scheme::kMinima) to.minima[block * kPanel + lane] = factors.minimum;
    if constexpr (Scheme::kSubScales) {
        constexpr size_t groups = Scheme::kColumns / Scheme::kGroup;
        const size_t first = block * groups * kPanel + lane;
        for (size_t g = 0; g < groups; ++g) {
            to.sub_scales[first + g * kPanel] = factors.sub_scales[g];
            if constexpr (Scheme::kMinima) to.sub_minima[first + g * kPanel] = factors.sub_minima[g];
        }
    }
}

template <typename Scheme>
void pack_quantized_panel(const BlockRows& from, const PackedArrays& to, size_t panel) {
    constexpr size_t piece = kSuperBlock;
    const auto words_of = [](size_t columns) { return columns * code_bits(Scheme::kKind) / 32; };
    const size_t first_row = panel * kPanel, first_block = panel * (from.columns / Scheme::kColumns);
    uint32_t* words = static_cast<uint32_t*>(to.codes) + first_row * words_of(from.columns);
    alignas(64) uint32_t lanes[kPanel][piece * code_bits(Scheme::kKind) / 32];
    alignas(64) uint8_t codes[piece];
    for (size_t column = 0; column < from.columns; column += piece) {
        const size_t n = std::min(piece, from.columns - column);
        for (size_t lane = 0; lane < kPanel; ++lane) {
            const bool there = first_row + lane < from.rows;
            if (!there) std::memset(codes, Scheme::kZero, n);
            for (size_t i = 0; i < n; i += Scheme::kColumns) {
                const size_t block = (column + i) / Scheme::kColumns;
                Factors factors;
                if (there)
                    Scheme::unpack(from.data + (first_row + lane) * from.stride + block * Scheme::kBytes, codes + i,
                                   factors);
                put<Scheme>(factors, to, first_block + block, lane);
            }
            to_words<Scheme::kKind>(codes, n, lanes[lane]);
        }
        transpose(lanes, words_of(n), words + words_of(column) * kPanel);
    }
}

template <typename Scheme>
void dequantize_blocks(const uint8_t* row, size_t columns, float* out) {
    uint8_t codes[Scheme::kColumns];
    Factors factors;
    for (size_t block = 0; block < columns / Scheme::kColumns; ++block, row += Scheme::kBytes) {
        Scheme::unpack(row, codes, factors);
        const float block_scale = from_half(factors.scale), block_minimum = from_half(factors.minimum);
        for (size_t g = 0; g < Scheme::kColumns / Scheme::kGroup; ++g, out += Scheme::kGroup) {
            const float scale = Scheme::kSubScales ? block_scale * factors.sub_scales[g] : block_scale;
            const float minimum = Scheme::kSubScales ? block_minimum * factors.sub_minima[g] : block_minimum;
            for (size_t i = 0; i < Scheme::kGroup; ++i) {
                const float product = scale * static_cast<float>(codes[g * Scheme::kGroup + i] - Scheme::kZero);
                out[i] = Scheme::kMinima ? product + minimum : product;
            }
        }
    }
}

}  // namespace

size_t columns_of(int ggml_type, size_t row_bytes) {
    return with_scheme(ggml_type, [=](auto scheme) {
        using Scheme = decltype(scheme);
        size_t block_columns = 1, block_bytes = 0;
        if constexpr (is_dense<Scheme>) {
            block_bytes = sizeof(typename Scheme::Element);
        } else {
            block_columns = Scheme::kColumns;
            block_bytes = Scheme::kBytes;
        }
        if (row_bytes % block_bytes) throw std::invalid_argument("rows are not whole blocks");
        return row_bytes / block_bytes * block_columns;
    });
}

PackedSizes packed_sizes(int ggml_type, size_t rows, size_t columns) {
    const size_t lanes = (rows + kPanel - 1) / kPanel * kPanel, elements = lanes * columns;
    return with_scheme(ggml_type, [=](auto scheme) -> PackedSizes {
        using Scheme = decltype(scheme);
        if constexpr (is_dense<Scheme>) {
            return {lanes * panel_columns<Scheme>(columns) * sizeof(typename Scheme::Element), 0, 0, 0, 0};
        } else {
            const size_t codes = elements * code_bits(Scheme::kKind) / 8;
            const size_t blocks = elements / Scheme::kColumns;
            const size_t groups = Scheme::kSubScales ? elements / Scheme::kGroup : 0;
            return {codes, blocks, Scheme::kMinima ? blocks : 0, groups, Scheme::kMinima ? groups : 0};
        }
    });
}

void pack(const BlockRows& from, const PackedArrays& to, size_t first_panel, size_t last_panel) {
    with_scheme(from.ggml_type, [&](auto scheme) {
        using Scheme = decltype(scheme);
        for (size_t panel = first_panel; panel < last_panel; ++panel)
            if constexpr (is_dense<Scheme>)
                pack_dense_panel<Scheme>(from, to.codes, panel);
            else
                pack_quantized_panel<Scheme>(from, to, panel);
    });
}

void dequantize_row(int ggml_type, const uint8_t* row, size_t columns, float* out) {
    with_scheme(ggml_type, [=](auto scheme) {
        using Scheme = decltype(scheme);
        if constexpr (is_dense<Scheme>) {
            using Element = typename Scheme::Element;
            for (size_t i = 0; i < columns; ++i) out[i] = Scheme::number(load<Element>(row + i * sizeof(Element)));
        } else {
            dequantize_blocks<Scheme>(row, columns, out);
        }
    });
}

}  // namespace rowspan
