// Mixtures of experts: a router's logits choose experts for each token, whose results are added up. Written over the
// products of `Kernels`, so that it takes every kind of weights on every instruction set.
//
// A step's rows are sorted by expert, so that an expert's weights are read once a step, whoever chose it; experts that
// nobody chose are not read. A token's result has the same bits whatever the others choose.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "kernels.hpp"

namespace rowspan {

constexpr size_t kLine = 64;  // bytes

inline size_t whole_lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// The first of the memory's bytes that begins a cache line.
inline char* first_line(std::vector<char>& memory) {
    return reinterpret_cast<char*>(whole_lines(reinterpret_cast<uintptr_t>(memory.data())));
}

enum class Gating : int { softmax, sigmoid, softmax_chosen, sqrt_softplus };

// How experts are chosen: see `MoeSpec` of src/rowspan/model/spec.py.
struct Router {
    size_t experts, used;
    Gating gating;
    bool normalize;
    float scale;
    size_t groups, groups_used;
    const float* selection_bias;  // (experts) or null
    const float* scales;          // (experts) of experts' results, or null
};

// A matrix of each expert held, one below the other, each in whole panels.
struct ExpertMatrices {
    const Matrix& all;
    size_t rows;  // of each

    size_t panels() const { return (rows + kPanel - 1) / kPanel; }
    // So many panels of an expert, from some one on.
    Matrix part(size_t expert, Range panels_of_it) const {
        const size_t end = panels_of_it.to * kPanel;
        return panels_of(all, expert * panels() + panels_of_it.from,
                         (end < rows ? end : rows) - panels_of_it.from * kPanel);
    }
};

// The experts first … first + held - 1, or a part of each one's width. Biases: one row for each expert held, or null.
struct Mixture {
    Router router;
    std::optional<ExpertMatrices> gate;
    ExpertMatrices up, down;
    const float *gate_bias, *up_bias, *down_bias;
    Activation activation;
    bool gate_is_like_up;  // in kind and shape: both products are then computed side by side
    bool weighs_input;
    Form form, down_form;  // of the tokens, and of what comes out of gate and up
    size_t first, held;

    size_t columns() const { return up.all.columns; }
    size_t width() const { return up.rows; }
};

// What a mixture needs beside its inputs while it runs; one for all mixtures of a program, as they run one after the other.
class MixtureScratch {
  public:
    explicit MixtureScratch(size_t threads);

    // Make room for so many tokens.
    void reserve(const Kernels& kernels, const Mixture& mixture, size_t tokens);

    // out (tokens, rows of down) of x (tokens, columns) and logits (tokens, experts). Every thread calls it.
    void run(const Kernels& kernels, const Mixture& mixture, const float* x, const float* logits, size_t tokens, float* out,
             const Team& team, Tasks& gate_up_tasks, Tasks& down_tasks);

  private:
    // The rows of one expert: slots first … first + count - 1, and where they lie as products take them.
    struct Unit {
        size_t expert, first, count;
        size_t packed, packed_hidden;  // bytes from the beginning
    };
    // A thread's own things.
    struct alignas(64) Own {
        uint32_t calls = 0;
        Barrier barrier;
        Tasks tasks{1, calls};
        std::vector<float> scores, ranks, tile;
        std::vector<uint8_t> lost;  // groups of experts that are not among the best
    };

    struct Work;  // one call's arguments

    void choose(const Work& work, Range tokens, Own& own);
    void group(const Work& work);
    void pack(const Work& work, const Team& team);
    void pack_hidden(const Work& work, const Team& team);
    void gate_up(const Work& work, const Unit& unit, Range panels, Own& own);
    void down(const Work& work, const Unit& unit, Range panels, Own& own);
    void combine(const Work& work, const Team& team);
    template <typename Visit>
    void by_panels(const Work& work, size_t panels, const Team& team, Tasks& tasks, Visit visit);
    template <typename Visit>
    void by_tiles(const Work& work, const Team& team, Visit visit);

    std::deque<Own> own_;
    std::vector<size_t> chosen_;    // (tokens, used) experts, best first
    std::vector<float> weights_;    // (tokens, used)
    std::vector<int64_t> slots_;    // (tokens, used) in the order of experts; -1: held by another rank
    std::vector<size_t> sources_;   // of each slot: token · used + place
    std::vector<size_t> starts_;    // of each expert's slots
    std::vector<Unit> units_;
    std::vector<char> packed_, packed_hidden_;
    std::vector<float> hidden_, second_, results_;  // (slots, width) twice, (slots, rows of down)
};

}  // namespace rowspan
