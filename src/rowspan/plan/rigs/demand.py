"""The work that computing a model's tokens takes: bytes to read, operations to do. The forecast is computed from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rowspan.plan.fit import model_position_bytes
from rowspan.plan.rigs.outline import Outline
from rowspan.plan.rigs.planned_rig import CardSpec, are_linked
from rowspan.plan.split_mode import SplitMode

FLOAT_SCHEMES = ("F32", "F16", "BF16")


def prompt_operations(tokens: int, layer_weights: int, head_weights: int, query_values: int) -> float:
    """Operations, two per multiply-add, for a prompt whose last token gets logits. For every token that it sees, a
    token needs one multiply-add per query element for the score, and one for its share of the values.

    Args:
        layer_weights, head_weights: elements of the matrices that every token, and that every token with logits, is
            multiplied with.
        query_values: elements of a token's queries, over all layers.
    """
    pairs = tokens * (tokens + 1) // 2
    return 2.0 * (tokens * layer_weights + head_weights + 2 * pairs * query_values)


@dataclass(frozen=True)
class ModelDemand:
    """A model's work per token.

    weight_bytes: bytes of weights read for a single token.
    all_weight_bytes: bytes read for many tokens, which together use all experts.
    layer_weights, head_weights: elements of the matrices that a token, and that a token with logits, is multiplied
        with.
    cache_bytes: bytes that one position takes in the KV cache, over all layers.
    query_values: elements of a token's queries, over all layers.
    activation_bytes: bytes of a token's hidden states between layers, in 16 bits.
    """

    weight_bytes: int
    all_weight_bytes: int
    layers: int
    layer_weights: int
    head_weights: int
    cache_bytes: int
    query_values: int
    activation_bytes: int
    is_quantized: bool

    @property
    def is_mixture(self) -> bool:
        """Whether the model is a mixture of experts, of which a token uses only some."""
        return self.weight_bytes < self.all_weight_bytes

    def token_bytes(self, context: float) -> float:
        """Bytes read for one more token behind `context` others."""
        return self.weight_bytes + context * self.cache_bytes

    def prompt_operations(self, tokens: int) -> float:
        """Operations for a prompt of `tokens` tokens; see the function `prompt_operations`."""
        return prompt_operations(tokens, self.layer_weights, self.head_weights, self.query_values)


def demand_of(outline: Outline, cache_types: tuple[str, str] = ("float16", "float16")) -> ModelDemand:
    """Add a model's work up. Sliding windows are ignored: the forecast is for short contexts."""
    spec = outline.spec
    return ModelDemand(
        weight_bytes=outline.token_bytes,
        all_weight_bytes=outline.resident_bytes,
        layers=spec.n_layers,
        layer_weights=outline.active_weights,
        head_weights=spec.vocab_size * spec.hidden_size,
        cache_bytes=model_position_bytes(spec, cache_types),
        query_values=spec.query_width,
        activation_bytes=2 * spec.hidden_size,
        is_quantized=outline.scheme not in FLOAT_SCHEMES,
    )


@dataclass(frozen=True)
class Run:
    """A way of running a model on cards.

    engine: "llama.cpp", "llama.cpp Vulkan", "Ollama", "vLLM".
    is_old: the engine was built before 2025.
    shares: shares of the model by card; None: equal ones.
    peer_copies: whether cards copy to each other directly; None: as these cards do without patches.
    """

    cards: tuple[CardSpec, ...]
    mode: SplitMode
    engine: str = "llama.cpp"
    is_old: bool = False
    shares: Sequence[float] | None = None
    peer_copies: bool | None = None

    @property
    def fractions(self) -> list[float]:
        shares = self.shares or [1.0] * len(self.cards)
        return [share / sum(shares) for share in shares]

    @property
    def is_linked(self) -> bool:
        """Whether cards copy to each other directly."""
        return are_linked(self.cards, self.peer_copies)
