#include "pack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "unpack.hpp"
#include "unpack_grids.hpp"

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

// 2^(exponent - 128), exactly.
float power(uint32_t exponent) {
    const uint32_t bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
    return load<float>(&bits);
}

// Half of an E4M3 without a sign.
float halved_e4m3(uint8_t bits) { return from_half(static_cast<uint16_t>(bits << 7)) * 128.0f; }

// Dense types: what an element is in memory, and as a number; whether neighbours stay side by side in a panel.
struct F32 {
    static constexpr bool kPairs = false;
    using Element = uint32_t;
    static float number(Element element) { return load<float>(&element); }
};

struct F16 {
    static constexpr bool kPairs = false;
    using Element = uint16_t;
    static float number(Element element) { return from_half(element); }
};

struct BF16 {
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
    } else if constexpr (kind == Codes::u4 || kind == Codes::t4) {
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
    constexpr size_t groups = Scheme::kColumns / Scheme::kGroup;
    if constexpr (Scheme::kE4m3) {
        for (size_t g = 0; g < groups; ++g) to.e4m3[(block * groups + g) * kPanel + lane] = factors.e4m3[g];
    } else if constexpr (Scheme::kExponents)
        to.exponents[block * kPanel + lane] = static_cast<uint8_t>(factors.scale);
    else
        to.scales[block * kPanel + lane] = factors.scale;
    if constexpr (Scheme::kMinima) to.minima[block * kPanel + lane] = factors.minimum;
    if constexpr (Scheme::kOddFactors) {
        const size_t first = block * groups / 2 * kPanel + lane;
        for (size_t g = 0; g < groups; g += 2)
            to.odd_factors[first + g / 2 * kPanel] =
                static_cast<uint8_t>(factors.odd[g] | factors.odd[g + 1] << 4);
    }
    if constexpr (Scheme::kSubScales) {
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
int number(uint8_t code) {
    if constexpr (Scheme::kKind == Codes::t4) return Scheme::kTable[code];
    return code - Scheme::kZero;
}

// What a block's scale is multiplied by for a group.
template <typename Scheme>
float group_factor(const Factors& factors, size_t group) {
    if constexpr (Scheme::kE4m3) return halved_e4m3(factors.e4m3[group]);
    if constexpr (Scheme::kOddFactors) return static_cast<float>(2 * factors.odd[group] + 1);
    if constexpr (Scheme::kSubScales) return factors.sub_scales[group];
    return 1.0f;
}

template <typename Scheme>
void dequantize_blocks(const uint8_t* row, size_t columns, float* out) {
    uint8_t codes[Scheme::kColumns];
    Factors factors;
    for (size_t block = 0; block < columns / Scheme::kColumns; ++block, row += Scheme::kBytes) {
        Scheme::unpack(row, codes, factors);
        const float block_scale = Scheme::kE4m3 ? 1.0f : Scheme::kExponents ? power(factors.scale) : from_half(factors.scale);
        const float block_minimum = from_half(factors.minimum);
        for (size_t g = 0; g < Scheme::kColumns / Scheme::kGroup; ++g, out += Scheme::kGroup) {
            const float scale = block_scale * group_factor<Scheme>(factors, g);
            const float minimum = Scheme::kSubScales ? block_minimum * factors.sub_minima[g] : block_minimum;
            for (size_t i = 0; i < Scheme::kGroup; ++i) {
                const float product = scale * static_cast<float>(number<Scheme>(codes[g * Scheme::kGroup + i])) * Scheme::kUnit;
                out[i] = Scheme::kMinima ? product + minimum : product;
            }
        }
    }
}

template <typename Scheme>
PackedSizes packed_sizes(size_t rows, size_t columns) {
    const size_t lanes = (rows + kPanel - 1) / kPanel * kPanel, elements = lanes * columns;
    if constexpr (is_dense<Scheme>) {
        return {lanes * panel_columns<Scheme>(columns) * sizeof(typename Scheme::Element), 0, 0, 0, 0, 0, 0, 0};
    } else {
        const size_t codes = elements * code_bits(Scheme::kKind) / 8;
        const size_t blocks = elements / Scheme::kColumns;
        const size_t groups = elements / Scheme::kGroup, subs = Scheme::kSubScales ? groups : 0;
        const bool halves = !Scheme::kExponents && !Scheme::kE4m3;
        return {codes,
                halves ? blocks : 0,
                Scheme::kExponents ? blocks : 0,
                Scheme::kMinima ? blocks : 0,
                subs,
                Scheme::kMinima ? subs : 0,
                Scheme::kE4m3 ? groups : 0,
                Scheme::kOddFactors ? groups / 2 : 0};
    }
}

template <typename Scheme>
void pack_panels(const BlockRows& from, const PackedArrays& to, size_t first_panel, size_t last_panel) {
    for (size_t panel = first_panel; panel < last_panel; ++panel)
        if constexpr (is_dense<Scheme>)
            pack_dense_panel<Scheme>(from, to.codes, panel);
        else
            pack_quantized_panel<Scheme>(from, to, panel);
}

template <typename Scheme>
void dequantize_elements(const uint8_t* row, size_t columns, float* out) {
    using Element = typename Scheme::Element;
    for (size_t i = 0; i < columns; ++i) out[i] = Scheme::number(load<Element>(row + i * sizeof(Element)));
}

template <typename Scheme>
constexpr BlockFormat format_of(std::string_view name) {
    if constexpr (is_dense<Scheme>)
        return {name, 1, sizeof(typename Scheme::Element), packed_sizes<Scheme>, pack_panels<Scheme>,
                dequantize_elements<Scheme>};
    else
        return {name, Scheme::kColumns, Scheme::kBytes, packed_sizes<Scheme>, pack_panels<Scheme>,
                dequantize_blocks<Scheme>};
}

constexpr BlockFormat kFormats[] = {
    format_of<F32>("F32"),   format_of<F16>("F16"),   format_of<BF16>("BF16"), format_of<Q8_0>("Q8_0"),
    format_of<Q4_0>("Q4_0"), format_of<Q4_1>("Q4_1"), format_of<Q5_0>("Q5_0"), format_of<Q5_1>("Q5_1"),
    format_of<Q2_K>("Q2_K"), format_of<Q3_K>("Q3_K"), format_of<Q4_K>("Q4_K"), format_of<Q5_K>("Q5_K"),
    format_of<Q6_K>("Q6_K"), format_of<IQ4_NL>("IQ4_NL"), format_of<IQ4_XS>("IQ4_XS"),
    format_of<MXFP4>("MXFP4"), format_of<NVFP4>("NVFP4"), format_of<IQ3_S>("IQ3_S"), format_of<IQ3_XXS>("IQ3_XXS"),
    format_of<IQ2_S>("IQ2_S"), format_of<IQ2_XS>("IQ2_XS"), format_of<IQ2_XXS>("IQ2_XXS"), format_of<IQ1_M>("IQ1_M"),
    format_of<IQ1_S>("IQ1_S"), format_of<TQ2_0>("TQ2_0"), format_of<TQ1_0>("TQ1_0"),
};

}  // namespace

size_t BlockFormat::columns(size_t row_bytes) const {
    if (row_bytes % block_bytes) throw std::invalid_argument("rows are not whole blocks");
    return row_bytes / block_bytes * block_columns;
}

const BlockFormat& block_format(std::string_view scheme) {
    for (const BlockFormat& format : kFormats)
        if (format.scheme == scheme) return format;
    throw std::invalid_argument("no blocks of " + std::string(scheme) + " can be read");
}

}  // namespace rowspan
