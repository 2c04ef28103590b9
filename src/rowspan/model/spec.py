"""ModelSpec: the one description of a model, which engine, planner and forecast all read. No torch.

A model is a tuple of layers, and a layer is data: what mixes its tokens (attention), what its MLP is (dense, or a
mixture of experts), and where its norms stand. The code that computes a model and the code that counts its bytes both
walk over this data. Sizes are in elements, positions in tokens. `rowspan.model.families` makes a spec from metadata;
`rowspan.model.roles` derives the tensors from a spec.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from rowspan.kvcache.groups import CacheGroup


class Activation(StrEnum):
    """The nonlinearity of an MLP, applied to its gate, which is then multiplied by up.

    SILU: x · sigmoid(x). GELU: its form with tanh (Hendrycks and Gimpel 2016). GELU_ERF: x · Φ(x) itself.
    RELU2: max(x, 0)² (So et al. 2021).
    CLAMPED_SWIGLU, of gpt-oss: with g = min(gate, 7) and u = clamp(up, -7, 7), g · sigmoid(1.702 · g) · (u + 1).
    """

    SILU = "silu"
    GELU = "gelu"
    GELU_ERF = "gelu_erf"
    RELU2 = "relu2"
    CLAMPED_SWIGLU = "clamped_swiglu"


class QkNorm(StrEnum):
    """The stretch over which queries and keys are normed before rotation: none, each head by itself, or all heads of a
    token together.
    """

    NONE = "none"
    HEAD = "head"
    ROW = "row"


class NormKind(StrEnum):
    """RMS: x / rms(x) · weight (Zhang and Sennrich 2019). LAYER: the mean is subtracted first (Ba et al. 2016)."""

    RMS = "rms"
    LAYER = "layer"


class Gating(StrEnum):
    """How a router's logits become experts' weights. SOFTMAX_CHOSEN: softmax over the logits of the chosen experts
    only.
    """

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    SOFTMAX_CHOSEN = "softmax_chosen"
    SQRT_SOFTPLUS = "sqrt_softplus"


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) and its scalings.

    dim: leading elements of a head that are rotated. interleaved: rotate neighbours (2i, 2i+1) instead of halves
    (i, i + dim/2).
    scaling: "none", "linear" (positions divided by `factor`) or "yarn" (Peng et al. 2023). Llama-3 scaling arrives as
    the tensor `rope_freqs` (one divisor per pair), not as metadata; LongRoPE's (Ding et al. 2024) as two tensors, one
    of them for contexts beyond `original_context`. has_factors: this rotation uses them where they are there.
    yarn_attn_factor: factor of cosines and sines, whatever the scaling.
    """

    dim: int
    base: float
    interleaved: bool
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    yarn_ext_factor: float = 1.0
    yarn_attn_factor: float = 1.0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    has_factors: bool = True


@dataclass(frozen=True)
class LatentSpec:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434). Keys and values are projected from a latent of
    `kv_rank` elements. Only this latent is cached per position, and `rope_size` rotated elements that all heads share:
    queries and results are projected to and from it instead ("absorbed").

    q_rank: size of the queries' own latent; 0: queries are projected directly.
    has_joined_kv_b: the file holds the projections to keys and to values as one matrix.
    """

    kv_rank: int
    rope_size: int
    q_rank: int = 0
    has_joined_kv_b: bool = True


@dataclass(frozen=True)
class Temperature:
    """Queries at a position p are multiplied by ln(floor((p + offset) / original_context) + 1) · scale + 1, as in
    Llama 4 (https://huggingface.co/blog/llama4-release).
    """

    scale: float
    original_context: int
    offset: int = 0


@dataclass(frozen=True)
class AttentionSpec:
    """Softmax attention of `n_heads` query heads to `n_kv_heads` heads of keys and values.

    key_size, value_size: elements of a head.
    rope: the rotary position embedding; None: this layer embeds no positions.
    window: number of positions that a token sees, itself included; None: all positions up to it. Of an encoder: half of
        it on either side; None: the whole text.
    scale: factor of the scores; None: 1/√key_size.
    soft_cap: c in c · tanh(scores / c), applied before the mask.
    has_sinks: each head's softmax includes one more score, of a key without a value.
    has_gate: the result is multiplied by sigmoid(gate) before the output projection; q's rows are each head's query,
        then its gate.
    temperature: factors of queries by their positions.
    values_are_keys: there is no projection to values; they are the keys as projected, before norm and rotation.
    norms_values: each head of the values is divided by its rms.
    """

    n_heads: int
    n_kv_heads: int
    key_size: int
    value_size: int
    rope: RopeSpec | None
    window: int | None = None
    scale: float | None = None
    soft_cap: float | None = None
    qk_norm: QkNorm = QkNorm.NONE
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_sinks: bool = False
    has_gate: bool = False
    latent: LatentSpec | None = None
    temperature: Temperature | None = None
    values_are_keys: bool = False
    norms_values: bool = False

    @property
    def score_scale(self) -> float:
        return self.key_size**-0.5 if self.scale is None else self.scale

    @property
    def n_units(self) -> int:
        """Number of units that ranks may share the layer by: KV heads with their query heads; in latent attention,
        query heads.
        """
        return self.n_heads if self.latent else self.n_kv_heads

    @property
    def group(self) -> int:
        """Number of query heads in one unit."""
        return self.n_heads // self.n_units

    def cached(self, units: int) -> tuple[int, int, int]:
        """The heads that a rank with so many units caches per position, and the elements of a head's key and of its
        value. Of latent attention every rank of a stage caches the same one: the rotated elements and the latent as its
        key, the latent as its value. (It is held twice: native kernels order keys and values differently.)
        """
        if self.latent is None:
            return units, self.key_size, self.value_size
        return 1, self.latent.rope_size + self.latent.kv_rank, self.latent.kv_rank


@dataclass(frozen=True)
class MlpSpec:
    """An MLP that computes down(activation(gate) · up), or without a gate down(activation(up))."""

    width: int
    activation: Activation = Activation.SILU
    has_gate: bool = True
    has_bias: bool = False


@dataclass(frozen=True)
class MoeSpec:
    """A mixture of `experts` MLPs, of which a router chooses `used` for each token, and perhaps an MLP shared by all
    tokens.

    expert: the MLP that every expert is.
    normalize: the chosen experts' weights are divided by their sum.
    scale: then multiplied by this.
    weighs_input: an expert's input is multiplied by its weight, instead of its output.
    n_groups, groups_used: experts are chosen from the best `groups_used` of `n_groups` groups of neighbours.
    has_selection_bias: a bias is added to the scores that experts are chosen by, but not to their weights.
    has_shared_gate: the shared MLP's result is multiplied by sigmoid(h · gate).
    is_beside: the shared MLP and the experts have norms of their own before and after, and the router one of its own.
    has_expert_scales: each expert's result has a factor.
    has_joined_gate_up: the file holds each expert's gate and up as one matrix.
    """

    expert: MlpSpec
    experts: int
    used: int
    gating: Gating = Gating.SOFTMAX
    normalize: bool = True
    scale: float = 1.0
    weighs_input: bool = False
    n_groups: int = 1
    groups_used: int = 1
    has_selection_bias: bool = False
    has_router_bias: bool = False
    shared: MlpSpec | None = None
    has_shared_gate: bool = False
    is_beside: bool = False
    has_expert_scales: bool = False
    has_joined_gate_up: bool = False


@dataclass(frozen=True)
class LayerSpec:
    """A layer: mixer and MLP, whose results are added to the hidden states.

    pre_norm, post_norm: the input, and the result, of mixer and MLP are normed.
    norms_sum: their sums with the hidden states are normed instead, and take the hidden states' place, as in the first
        transformers (Vaswani et al. 2017).
    parallel: both get the same normed input, and their results are added together.
    has_attn_norm: with `pre_norm`, the mixer's input is normed, too.
    has_output_scale: the hidden states that leave the layer have a factor.
    """

    mixer: AttentionSpec
    mlp: MlpSpec | MoeSpec
    pre_norm: bool = True
    post_norm: bool = False
    norms_sum: bool = False
    parallel: bool = False
    has_attn_norm: bool = True
    has_output_scale: bool = False

    @property
    def mlp_width(self) -> int:
        """Rows of the gate matrices, of all experts together."""
        return self.mlp.width if isinstance(self.mlp, MlpSpec) else self.mlp.experts * self.mlp.expert.width


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder has that decoders lack. Its tokens see the whole text, and it ends with hidden states.

    n_positions: rows of a learned embedding of positions, which is added to the tokens'; 0: there is none.
    n_token_types: rows of an embedding of kinds of texts, of which the first is added to every token's.
    has_embedding_norm: the sum of all these is normed.
    has_final_norm: so are the hidden states of the last layer.
    has_norm_bias: norms have biases.
    dense: rows of matrices that the hidden states are multiplied with in the end, one after the other.
    n_labels: of a classifier, which makes scores of hidden states: out(tanh(cls(x))), or out(x). 0: there is none.
    """

    n_positions: int = 0
    n_token_types: int = 0
    has_embedding_norm: bool = False
    has_final_norm: bool = False
    has_norm_bias: bool = False
    dense: tuple[int, ...] = ()
    n_labels: int = 0
    has_classifier_layer: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """A model: a decoder, or an encoder.

    architecture: as GGUF's `general.architecture` spells it.
    context_length: number of positions that the model was trained for; 0: unknown.
    embedding_scale: factor of the embeddings.
    residual_scale: factor of what every mixer and MLP adds.
    logit_scale: factor of the logits.
    final_soft_cap: c in c · tanh(logits / c).
    norm: of hidden states; queries and keys are normed by their rms in any case.
    encoder: None for decoders.
    """

    architecture: str
    name: str
    hidden_size: int
    vocab_size: int
    context_length: int
    norm_eps: float
    layers: tuple[LayerSpec, ...]
    tied_embeddings: bool
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    final_soft_cap: float | None = None
    norm: NormKind = NormKind.RMS
    encoder: EncoderSpec | None = None

    @property
    def causal(self) -> bool:
        """Whether tokens see none that come after them."""
        return self.encoder is None

    @property
    def state_size(self) -> int:
        """Elements of what a model gives back of a token besides logits: its hidden state, or what is made of it."""
        encoder = self.encoder or EncoderSpec()
        return encoder.n_labels or (self.hidden_size, *encoder.dense)[-1]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def layer_kinds(self) -> dict[LayerSpec, int]:
        """The different layers, each with how often it occurs: one or two kinds even if layers are many."""
        kinds: dict[LayerSpec, int] = {}
        for layer in self.layers:
            kinds[layer] = kinds.get(layer, 0) + 1
        return kinds

    @cached_property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The different rotary embeddings of its layers."""
        return tuple(dict.fromkeys(kind.mixer.rope for kind in self.layer_kinds if kind.mixer.rope))

    @cached_property
    def temperatures(self) -> tuple[Temperature, ...]:
        """The different temperatures of its layers' queries."""
        return tuple(dict.fromkeys(kind.mixer.temperature for kind in self.layer_kinds if kind.mixer.temperature))

    @cached_property
    def cache_groups(self) -> tuple[CacheGroup, ...]:
        """Groups of layers whose caches keep the same positions: of full attention first, then of windows."""
        if not self.causal:
            return (CacheGroup(),)  # a text is one step
        windows = {kind.mixer.window for kind in self.layer_kinds}
        return tuple(CacheGroup(window) for window in sorted(windows, key=lambda window: window or 0))

    @cached_property
    def layer_groups(self) -> tuple[int, ...]:
        """Of each layer the index of its group in `cache_groups`."""
        if not self.causal:
            return (0,) * self.n_layers
        index = {group.window: place for place, group in enumerate(self.cache_groups)}
        return tuple(index[layer.mixer.window] for layer in self.layers)

    @property
    def head_sizes(self) -> tuple[int, ...]:
        """The different sizes of heads of keys and of values that are cached."""
        return tuple(dict.fromkeys(size for kind in self.layer_kinds for size in kind.mixer.cached(1)[1:]))

    @property
    def expert_share(self) -> float:
        """The share of the experts that one token uses; 1 for a dense model."""
        mixtures = [layer.mlp for layer in self.layer_kinds if isinstance(layer.mlp, MoeSpec)]
        return max((moe.used / moe.experts for moe in mixtures), default=1.0)

    @property
    def query_width(self) -> int:
        """Elements of a token's queries, over all layers."""
        return sum(count * kind.mixer.n_heads * kind.mixer.key_size for kind, count in self.layer_kinds.items())
