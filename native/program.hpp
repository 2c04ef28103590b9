// One rank's step, recorded once as a list of kernel calls and replayed with other tokens each time: a call from Python
// costs 10 µs with what surrounds it, and a step of a small model has hundreds of them.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "kernels.hpp"
#include "mixture.hpp"
#include "pack.hpp"
#include "pool.hpp"
#include "tp_group.hpp"
#include "stage_link.hpp"

namespace rowspan {

// What differs from one step to the next; see `Attention` for the sequences.
struct Step {
    size_t tokens;
    const int64_t* ids;
    size_t sequences;
    const int64_t* starts;
    const int64_t* first_positions;
    std::vector<BlockTables> tables;  // of each kind of cache
    size_t outputs;
    const int64_t* output_rows;  // tokens that something is wanted of; those of a sequence follow one another
    size_t logits;
    const int64_t* logit_rows;  // which of the output rows have logits; null: all
};

// What a call is about: all tokens, those that something is wanted of, or those of them whose logits are.
enum class BatchDim : int { tokens, outputs, logits };

// A layer's cache, and the query heads of each of its KV heads. table: which of the step's tables has its blocks.
struct Heads {
    CacheSide k, v;
    size_t group, table;
};

struct RopeShape {
    size_t heads, size, half;
    bool interleaved;
};

// Rows of a token embedding still in its file's blocks: those of vocabulary entries first … first + rows - 1.
struct Table {
    const BlockFormat* format;
    const uint8_t* blocks;
    size_t stride, first, rows, columns;
};

// Buffers are the caller's, with room for the largest step; shapes are (rows of the step, width).
//
// Calls that cut their work by rows do it all in the same way, so that they may follow one another without a barrier.
class Program {
  public:
    // progress, if there is one, is kept up as Progress has it: whoever watches sees whether this rank is still at work.
    Program(const Kernels& kernels, Pool& pool, std::atomic<uint64_t>* progress)
        : kernels_(kernels), pool_(pool), progress_(progress), head_packed_(pool.threads()), head_rows_(pool.threads()), mixture_scratch_(pool.threads()) {}
    Program(const Program&) = delete;

    // Recording.
    void barrier();
    void end_segment();  // run() stops here, for the caller to do something between
    void embedding(const Table& table, float* out);
    void select(BatchDim rows, const float* x, size_t width, float* out);  // outputs of tokens, or logits of outputs
    void add(BatchDim rows, const float* a, const float* b, size_t width, float* out);
    void gated(BatchDim rows, Activation activation, const float* gate, const float* up, size_t width, float* out);
    void activate(BatchDim rows, Activation activation, const float* x, size_t width, float* out);
    void scale(BatchDim rows, const float* x, float factor, size_t width, float* out);
    void soft_cap(BatchDim rows, const float* x, float cap, size_t width, float* out);
    // width: of what is normed together; a row may hold several such heads.
    void rms_norm(BatchDim rows, const float* x, const float* weight, float eps, size_t heads, size_t width, float* out);
    void layer_norm(BatchDim rows, const float* x, const float* weight, const float* bias, float eps, size_t width,
                    float* out);
    // Each token's row times the factor of its position.
    void scale_by_position(const float* x, const float* factors, size_t width, float* out);
    // x + the row of its token's position in table (n_rows, width); the last one, from there on
    void add_by_position(const float* x, const float* table, size_t n_rows, size_t width, float* out);
    void pack(BatchDim rows, Form form, const float* x, size_t columns, void* packed);
    // The matrices must live as long as the program.
    void linear(BatchDim rows, Form form, const void* packed, const Linear& op);
    void mixture(BatchDim rows, const float* x, const float* logits, const Mixture& op, float* out);
    // out = x · sigmoid(gate), one gate a row
    void gate_rows(BatchDim rows, const float* x, const float* gate, size_t width, float* out);
    // For each of so many heads a product of its own: x (rows, heads · columns) → out (rows, heads · rows of each matrix).
    void head_linear(BatchDim rows, Form form, const float* x, const ExpertMatrices& matrices, size_t heads, float* out);
    // The elements from `first` on of each head: x (rows, heads · size) → out (rows, heads · count).
    void split_heads(BatchDim rows, const float* x, size_t heads, size_t size, Range part, float* out);
    // The heads of a, each followed by that of b.
    void join_heads(BatchDim rows, const float* a, const float* b, size_t heads, size_t a_size, size_t b_size, float* out);
    void rope(const float* x, const float* cos, const float* sin, const RopeShape& shape, float* out);
    // Throw std::invalid_argument where a head has more elements than there is room for, or a number that its cache's type
    // cannot have. What is behind a token's window is not read: blocks there may have gone to other sequences.
    void write_cache(const float* x, const CacheSide& side, size_t table);
    void attention(BatchDim rows, const float* q, const Heads& heads, const AttentionOptions& options, bool exact,
                   float* out);

    // With other ranks. A program has one TP group at most, and one link to each side.
    void all_reduce(TPGroup& group, BatchDim rows, const float* x, size_t width, bool contributes, const float* residual,
                    float* out);
    void gather(TPGroup& group, BatchDim rows, const float* x, std::vector<size_t> widths, float* whole);
    void send(StageLink& link, const float* x, size_t width);
    void receive(StageLink& link, size_t receiver, size_t width, float* out);

    // Replaying: begin a step, then run the segments in order. Throws std::invalid_argument: a table is missing, or short.
    void begin(const Step& step);
    void run(size_t segment);

  private:
    using Call = std::function<void(const Team&)>;

    size_t count(BatchDim rows) const {
        const size_t counts[] = {step_.tokens, step_.outputs, step_.logits};
        return counts[static_cast<int>(rows)];
    }
    // Note that one more exchange of the TP group was recorded: which.
    size_t exchange(std::function<uint32_t()> sequences);
    // This thread's rows, in whole tiles.
    Range part(BatchDim rows, const Team& team) const;
    void record(Call call);
    // work(range of rows) for this thread's part of them.
    template <typename Work>
    void by_rows(BatchDim rows, Work work);

    const Kernels& kernels_;
    Pool& pool_;
    std::atomic<uint64_t>* const progress_;
    Step step_{};
    std::vector<int64_t> positions_;                 // of the step's tokens
    std::vector<std::vector<int64_t>> cache_slots_;  // by table: where their keys and values go
    size_t tables_ = 1;                              // that calls ask for
    std::vector<int64_t> output_starts_, output_first_positions_;  // the step's, as if it had its output rows only
    uint32_t begun_ = 0;  // steps, this one and those that were broken off included
    uint32_t steps_ = 0;  // before this one
    uint32_t sequence_ = 0;  // of the TP group, before this step
    std::vector<std::function<uint32_t()>> exchanges_;  // how many sequence numbers each takes in this step
    std::vector<uint32_t> first_sequences_;             // of each
    std::deque<Tasks> tasks_;  // of the calls that share their work by them
    std::vector<std::vector<Call>> segments_{1};
    std::vector<std::function<Attention()>> attentions_;
    std::vector<float> scratch_;  // of attention
    // Tokens of one head, as products take them: bytes for so many tokens, and floats for a tile of them.
    struct HeadScratch {
        BatchDim rows;
        Form form;
        size_t columns;
    };
    std::vector<HeadScratch> head_products_;
    std::vector<std::vector<char>> head_packed_;  // of each thread
    std::vector<std::vector<float>> head_rows_;
    std::deque<std::pair<BatchDim, Mixture>> mixtures_;
    MixtureScratch mixture_scratch_;
};

}  // namespace rowspan
