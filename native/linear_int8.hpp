// Products of int8 activations and quantized weights, group by group: integer sums, which are exact, then scaled and added
// up in float32, group after group. So an output's bits depend neither on the other tokens of the step nor on threads.
#pragma once

#include <type_traits>

#include "activations.hpp"
#include "codes.hpp"
#include "each.hpp"
#include "strip.hpp"

namespace rowspan::ROWSPAN_ISA {

// How the codes of one matrix are read.
template <Codes Kind, bool Wide, bool HasMinima, size_t Group>
struct Format {
    static constexpr Codes kind = Kind;
    static constexpr bool narrow = Kind != Codes::u8, wide = Wide, has_minima = HasMinima;
    static constexpr size_t group = Group;
};

// sums[t][p] += codes · activations over one group of columns; if Widens, codes go to `bytes` as such. Inlined, or its sums
// are no registers: clang would not.
template <typename F, size_t Tokens, bool Widens, size_t Panels>
ROWSPAN_INLINE void dot_group(const uint8_t* const (&codes)[Panels], const CodeTable<F::kind>& table,
                              const int8_t* activations, Ints (&sums)[Tokens][Panels * kPerPanel],
                              uint8_t* const (&bytes)[Panels]) {
    constexpr size_t kVecs = Panels * kPerPanel;
    constexpr size_t kParts = kQuads<F::kind>;
    constexpr size_t kSteps = F::group / 4 / kParts;
    // Few sums, each waiting for its last addition: integers may be added up in any order, so take turns.
    constexpr bool kTakeTurns = Tokens * kVecs * kParts <= 4;
    constexpr size_t kChains = kTakeTurns ? 4 / (Tokens * kVecs * kParts) : 1;
    Ints turns[kChains][kParts][Tokens][kVecs];
    if constexpr (kTakeTurns) {
        for (auto& chain : turns)
            for (auto& part : chain)
                for (auto& token : part)
                    for (Ints& sum : token) sum = Ints::zero();
    }
#pragma GCC unroll 8
    for (size_t step = 0; step < kSteps; ++step) {
        Ints parts[kParts][kVecs];
        for (size_t p = 0; p < Panels; ++p) {
            for (size_t i = 0; i < kPerPanel; ++i) {
                Ints quads[kParts];
                read_unit<F::kind>(codes[p] + step * kUnitBytes<F::kind> + i * Ints::width * 4, table, quads);
                for (size_t part = 0; part < kParts; ++part) {
                    parts[part][p * kPerPanel + i] = quads[part];
                    if constexpr (Widens)
                        quads[part].store(bytes[p] + ((step * kParts + part) * kPerPanel + i) * Ints::width * 4);
                }
            }
        }
        for (size_t part = 0; part < kParts; ++part) {
            const int8_t* at = activations + (step * kParts + part) * 4 * Tokens;
#pragma GCC unroll 8
            for (size_t t = 0; t < Tokens; ++t) {
                int32_t four;
                __builtin_memcpy(&four, at + t * 4, 4);
                const Ints a = Ints::all(four);
#pragma GCC unroll 8
                for (size_t i = 0; i < kVecs; ++i) {
                    Ints& sum = kTakeTurns ? turns[step % kChains][part][t][i] : sums[t][i];
                    sum = dot<F::wide>(parts[part][i], a, sum);
                }
            }
        }
    }
    if constexpr (kTakeTurns) {
        for (auto& chain : turns)
            for (auto& part : chain)
                for (size_t t = 0; t < Tokens; ++t)
                    for (size_t i = 0; i < kVecs; ++i) sums[t][i] = sums[t][i] + part[t][i];
    }
}

// What a group's sum begins with, so that codes count from their zero; and, for minima, the sum of its activations.
template <typename F, size_t Tokens>
struct GroupSums {
    int32_t starts[kStripColumns / F::group * Tokens];
    float activations[F::has_minima ? kStripColumns / F::group * Tokens : 1];

    void load(const Int8Tile& tile, int32_t offset, size_t groups) {
        constexpr size_t kSumsPerGroup = F::group / kSummed;
        for (size_t g = 0; g < groups; ++g) {
            for (size_t t = 0; t < Tokens; ++t) {
                int32_t sum = tile.sums[g * kSumsPerGroup * Tokens + t];
                if (kSumsPerGroup == 2) sum += tile.sums[(g * kSumsPerGroup + 1) * Tokens + t];
                starts[g * Tokens + t] = offset * sum;
                if constexpr (F::has_minima)
                    activations[g * Tokens + t] =
                        tile.scales[g * F::group / kScaled * Tokens + t] * static_cast<float>(sum);
            }
        }
    }
};

// What codes memory is asked for while others are multiplied: none; with each group, in a lone pass of tokens or the first
// of many, the one that comes kAhead behind it, at a place known beforehand, as one token leaves no time to find others; or
// in each pass a share of what comes after the strip.
enum class Asks { none, alone, first, share };

// A share: with each group so many lines of each panel, from somewhere on.
template <size_t Panels>
struct Share {
    bool stays = holds_two_strips();  // in the first-level cache until its turn
    size_t lines = 0;
    const uint8_t* codes[Panels] = {};
};

constexpr size_t kWidePanel = kStripColumns * kPanel;  // bytes, at most, of a panel's codes in a strip, widened

// y (Tokens, Panels · 16) += tile · strip. If Widens, its codes go to `widened` (Panels, kWidePanel) as bytes.
template <typename F, size_t Tokens, Asks asks, bool Widens, size_t Panels>
inline void int8_product(const Int8Tile& tile, const Strip<Panels>& strip, const CodeTable<F::kind>& table, int zero,
                         const Share<Panels>& share, float* y, uint8_t* widened) {
    constexpr size_t kVecs = Panels * kPerPanel;
    constexpr size_t kGroupBytes = code_bytes(F::kind, F::group);
    const size_t groups = strip.count / F::group;
    GroupSums<F, Tokens> group_sums;
    group_sums.load(tile, kImplied<F::wide> - zero, groups);

    Vec totals[Tokens][kVecs];
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) totals[t][i] = Vec::load(y + (t * kVecs + i) * Vec::width);
    for (size_t g = 0; g < groups; ++g) {
        const uint8_t* codes[Panels];
        uint8_t* bytes[Panels] = {};
        for (size_t p = 0; p < Panels; ++p) {
            codes[p] = strip.codes[p] + g * kGroupBytes;
            if constexpr (Widens) bytes[p] = widened + p * kWidePanel + g * F::group * kPanel;
        }
        for (size_t p = 0; p < Panels && (asks == Asks::alone || asks == Asks::first); ++p) {
#pragma GCC unroll 8
            for (size_t at = 0; at < kGroupBytes; at += 64) {
                const uint8_t* const ahead = codes[p] + at + kAhead<Tokens>;
                asks == Asks::alone ? ask_of_stream(ahead) : __builtin_prefetch(ahead);
            }
        }
        for (size_t p = 0; p < Panels && asks == Asks::share; ++p) {
            for (size_t line = 0; line < share.lines; ++line) {
                const uint8_t* const ahead = share.codes[p] + (g * share.lines + line) * 64;
                share.stays ? ask_once(ahead) : __builtin_prefetch(ahead);
            }
        }
        Ints sums[Tokens][kVecs];
#pragma GCC unroll 8
        for (size_t t = 0; t < Tokens; ++t)
            for (size_t i = 0; i < kVecs; ++i) sums[t][i] = Ints::all(group_sums.starts[g * Tokens + t]);
        dot_group<F, Tokens, Widens>(codes, table, tile.codes + g * F::group * Tokens, sums, bytes);

        const float* scales = tile.scales + g * F::group / kScaled * Tokens;
        Vec weight_scales[kVecs], minima[kVecs];
        for (size_t i = 0; i < kVecs; ++i) {
            weight_scales[i] = Vec::load(strip.scales[i / kPerPanel][g] + i % kPerPanel * Vec::width);
            if constexpr (F::has_minima)
                minima[i] = Vec::load(strip.minima[i / kPerPanel][g] + i % kPerPanel * Vec::width);
        }
#pragma GCC unroll 8
        for (size_t t = 0; t < Tokens; ++t) {
            const Vec scale = Vec::all(scales[t]);
#pragma GCC unroll 8
            for (size_t i = 0; i < kVecs; ++i) {
                Vec& total = totals[t][i];
                total = Vec::fma(sums[t][i].to_floats(), weight_scales[i] * scale, total);
                if constexpr (F::has_minima)
                    total = Vec::fma(minima[i], Vec::all(group_sums.activations[g * Tokens + t]), total);
            }
        }
    }
    for (size_t t = 0; t < Tokens; ++t)
        for (size_t i = 0; i < kVecs; ++i) totals[t][i].store(y + (t * kVecs + i) * Vec::width);
}

constexpr size_t kFewPasses = 16;  // of tiles, that share what is asked for

// Matrix · tokens for the driver in linear.hpp.
template <typename F>
struct Int8Product {
    Int8Tokens tokens;
    CodeTable<F::kind> table;
    int zero;
    using Bytes = Format<Codes::u8, F::wide, F::has_minima, F::group>;  // of widened codes

    Int8Product(const void* packed, size_t n_tokens, const Matrix& matrix)
        : tokens(const_cast<void*>(packed), n_tokens, matrix.columns), table(matrix), zero(matrix.zero) {}

    // y: for each tile one after the other (h, Panels · 16).
    template <size_t Panels>
    void add(const Panel (&panels)[Panels], size_t first, size_t count, Range tiles, float* y) const {
        Strip<Panels> strip;
        load_strip(panels, first, count, strip);
        const size_t passes = tiles.to - tiles.from;
        Share<Panels> share = share_after(panels, first + count, strip, passes);
        const size_t bytes_of_share = share.lines * 64 * (count / F::group);
        alignas(64) uint8_t bytes[F::narrow ? Panels * kWidePanel : 64];
        const bool widens = F::narrow && passes > 2;
        for (size_t tile = tiles.from; tile < tiles.to; ++tile) {
            const size_t height = tile_height(tokens.tokens, tile);
            const Int8Tile from = tokens.tile(tile, first);
            const bool is_first = tile == tiles.from;
            // A lone pass has nobody to share with, and of many each would ask for next to nothing.
            const Asks of_first = passes == 1 ? Asks::alone : Asks::first;
            const Asks asks = share.lines ? Asks::share : is_first ? of_first : Asks::none;
            if (!widens) {
                by_height<F>(height, from, strip, table, asks, share, y);
            } else if (is_first) {
                pass_widening(from, strip, asks, share, y, bytes);
                for (size_t p = 0; p < Panels; ++p) strip.codes[p] = bytes + p * kWidePanel;
            } else {
                by_height<Bytes>(height, from, strip, CodeTable<Codes::u8>(), asks, share, y);
            }
            for (const uint8_t*& codes : share.codes) codes += bytes_of_share;
            y += height * Panels * kPanel;
        }
    }

  private:
    // Of what comes after the strip, which ends before some column, so that memory is asked evenly.
    template <size_t Panels>
    static Share<Panels> share_after(const Panel (&panels)[Panels], size_t end, const Strip<Panels>& strip,
                                     size_t passes) {
        Share<Panels> share;
        if (passes == 1 || passes > kFewPasses) return share;
        const size_t bytes = code_bytes(F::kind, strip.count), groups = strip.count / F::group;
        share.lines = (bytes / 64 + passes * groups - 1) / (passes * groups);
        for (size_t p = 0; p < Panels; ++p) share.codes[p] = codes_at(*panels[p].of, after(panels[p], end));
        return share;
    }

    // The first tile of several, a whole one: while it is multiplied, there is time to write codes, too (16 tokens of Q4_K:
    // 0.92 of the time that it takes to widen a strip beforehand).
    template <size_t Panels>
    void pass_widening(const Int8Tile& from, const Strip<Panels>& strip, Asks asks, const Share<Panels>& share, float* y,
                       uint8_t* bytes) const {
        if constexpr (Panels <= kPanelsOfTile) {
            if (asks == Asks::share)
                int8_product<F, kTokenTile, Asks::share, F::narrow>(from, strip, table, zero, share, y, bytes);
            else
                int8_product<F, kTokenTile, Asks::first, F::narrow>(from, strip, table, zero, share, y, bytes);
        }
    }

    template <typename G, size_t Panels>
    void by_height(size_t height, const Int8Tile& from, const Strip<Panels>& strip, const CodeTable<G::kind>& codes,
                   Asks asks, const Share<Panels>& share, float* y) const {
        visit_block<(Panels > kPanelsOfTile ? 1 : kTokenTile)>(height, 0, [&](auto block, size_t) {
            const auto pass = [&](auto how) {
                int8_product<G, block.rows, how.value, false>(from, strip, codes, zero, share, y, nullptr);
            };
            switch (asks) {
                case Asks::none: return pass(std::integral_constant<Asks, Asks::none>());
                case Asks::alone: return pass(std::integral_constant<Asks, Asks::alone>());
                case Asks::first: return pass(std::integral_constant<Asks, Asks::first>());
                case Asks::share: return pass(std::integral_constant<Asks, Asks::share>());
            }
        });
    }
};

}  // namespace rowspan::ROWSPAN_ISA
