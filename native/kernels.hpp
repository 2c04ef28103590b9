// The kernels every instruction set implements, as plain functions over raw memory. Shapes are given in elements; all
// arrays are contiguous, row-major and float32 unless said otherwise. Every thread of a run calls a kernel with its own
// Team and does its share; callers put barriers between kernels that need each other's results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.hpp"
#include "tasks.hpp"
#include "team.hpp"

namespace rowspan {

enum class CacheType : int { f32, f16, bf16, q8_0, i16_keys, i16_values };

constexpr size_t kMaxHead = 576;       // elements of a head that attention has room for: programs refuse more
constexpr size_t kCodesPerScale = 32;  // of q8_0: heads are whole ones of so many
constexpr size_t kTileRows = 16;       // neighbouring slots of an i16 cache; its heads are whole ones of so many elements

// The keys, or the values, of one layer: (kv_heads, slots, size) of the type, so that a head's lie together. value =
// scale · code for q8_0, int8 codes with float16 scales (kv_heads, slots, size / 32), and for i16, int16 codes with
// float32 scales (kv_heads, slots). Codes of i16 lie as attention multiplies them, in tiles of 16 slots: of keys
// (size / 2, 16, 2), of values (8, size, 2), so that what a pair of codes is multiplied with is a pair, too. Blocks of
// the cache are whole tiles.
struct CacheSide {
    CacheType type;
    void* data;
    void* scales;
    size_t kv_heads, slots, size;
};

// Where a sequence is cached, in blocks of so many slots: its positions from n · size on in block blocks[n].
struct BlockTable {
    const int32_t* blocks;
    size_t size;

    size_t slot(size_t position) const {
        const auto at = static_cast<uint32_t>(position), each = static_cast<uint32_t>(size);  // wider ones divide slowly
        return static_cast<size_t>(blocks[at / each]) * size + at % each;
    }
};

// The tables of several sequences, one after the other.
struct BlockTables {
    const int32_t* blocks;
    size_t stride, block_size;

    BlockTable of(size_t sequence) const { return {blocks + sequence * stride, block_size}; }
};

constexpr float kLog2E = 1.44269504f;

// What attention does beside softmax(q · keys) · values. Scores count in log2(e), as softmax's weights are powers of 2.
struct AttentionOptions {
    float scale;         // what makes a score of q · key
    size_t window;       // positions that a token sees, its own included; 0: all before it
    bool causal;         // else a token sees its whole sequence, or half a window on either side
    float soft_cap;      // c in c · tanh(score / c); 0: none
    const float* sinks;  // (kv_heads · group) plain scores of keys without values, neither scaled nor capped; null: none
    const float* gate;   // (tokens, kv_heads · group, value size): out is multiplied by its sigmoid; null: it is not
};

// Attention of several sequences' new tokens to themselves and what is cached before them. q (tokens, kv_heads · group,
// key size), out (tokens, kv_heads · group, value size). Sequence s has rows starts[s] … starts[s + 1] - 1, at consecutive
// positions from first_positions[s] on. A token sees no position after its own, and none before its window. Where attention
// is not causal, a sequence's last row is the last of its tokens, and all of them are in the cache.
struct Attention {
    const float* q;
    float* out;
    CacheSide k, v;
    size_t sequences;
    const int64_t* starts;
    const int64_t* first_positions;
    BlockTables tables;
    size_t group;
    AttentionOptions options;
};

// The nonlinearity of an MLP: see src/rowspan/model/spec.py.
enum class Activation : int { silu, gelu, gelu_erf, relu2, clamped_swiglu };

// What products take their tokens as: exact, rounded to int8, rounded to bfloat16.
enum class Form : int { floats, int8, bfloats };

// y (tokens, rows) = tokens · w.T + bias (rows) + residual (tokens, rows); bias and residual may be null. With `up`, a
// matrix of w's shape and kind: activation(tokens · w.T + bias) · (tokens · up.T + up_bias) instead. Rows of y and residual
// are `stride` elements apart.
struct Linear {
    const Matrix& w;
    const Matrix* up;
    Activation activation;
    const float* bias;
    const float* up_bias;
    const float* residual;
    float* y;
    size_t stride;
};

// Products with tokens of one form.
struct Products {
    // Reorder x (tokens, columns): the bytes needed, and the packing, of these tiles.
    size_t (*bytes)(size_t tokens, size_t columns);
    void (*pack)(const float* x, size_t tokens, size_t columns, void* packed, Range tiles);
    void (*linear)(const void* packed, size_t tokens, const Linear& op, const Team& team, Tasks& tasks);
};

struct Kernels {
    const char* name;

    size_t token_tile;  // tokens that are not parted when work is cut
    Products floats;    // with weights of any kind, exactly
    Products int8;      // with quantized weights
    Products bfloats;   // with bfloat16 weights; all null where there are no instructions for it
    ROWSPAN_INLINE const Products& products(Form form) const {
        return form == Form::floats ? floats : form == Form::int8 ? int8 : bfloats;
    }

    // out (rows, width) = x / rms(x) · weight
    void (*rms_norm)(const float* x, const float* weight, float eps, size_t width, float* out, Range rows);
    // out (rows, width) = (x - mean) / √(variance + eps) · weight + bias; bias may be null
    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, size_t width, float* out,
                       Range rows);
    // out = activation(gate) · up, and activation(x)
    void (*gated)(Activation activation, const float* gate, const float* up, float* out, Range elements);
    void (*activate)(Activation activation, const float* x, float* out, Range elements);
    // out = x · factor, and cap · tanh(x / cap)
    void (*scale)(const float* x, float factor, float* out, Range elements);
    void (*soft_cap)(const float* x, float cap, float* out, Range elements);
    // out = parts[0] + parts[1] + … of n parts, added in this order; 0 of none
    void (*sum)(const float* const* parts, size_t n, float* out, Range elements);
    // Rotate the leading 2 · half elements of each head of x (tokens, heads, size) into out, by the rows of cos and sin
    // (positions, half) that belong to the tokens' positions.
    void (*rope)(const float* x, const float* cos, const float* sin, const int64_t* positions, size_t heads, size_t size,
                 size_t half, bool interleaved, float* out, Range tokens);

    // Store rows (tokens, kv_heads, size) at slots[token], in the cache's type.
    void (*write_cache)(const float* rows, const int64_t* slots, const CacheSide& side, Range tokens);
    // attention_float: exact arithmetic; attention_rounded: q, weights, keys and values rounded to 16-bit integers, or, of
    // bf16 caches where there are tiles, q and weights to bfloat16.
    size_t (*attention_scratch)(const Attention& work);  // floats
    void (*attention_float)(const Attention& work, float* scratch, const Team& team, Tasks& tasks);
    void (*attention_rounded)(const Attention& work, float* scratch, const Team& team, Tasks& tasks);
};

const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
// What AVX-512 does, and more; and for tests the same, with the added instructions' work in plain C++.
const Kernels& avx512_bf16_kernels();
const Kernels& avx512_bf16_emulated_kernels();
const Kernels& amx_kernels();
const Kernels& amx_emulated_kernels();

}  // namespace rowspan
