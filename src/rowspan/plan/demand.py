"""What computing a model's tokens takes of a rig: bytes to read, operations to do. The forecast's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rowspan.plan.outline import Outline
from rowspan.plan.planned_rig import CardSpec, are_linked
from rowspan.plan.split_mode import SplitMode

FLOAT_SCHEMES = ("F32", "F16", "BF16")


def prompt_operations(tokens: int, layer_weights: int, head_weights: int, query_values: int) -> float:
    """Operations, two to a multiply-add, of a prompt whose last token gets logits. A token's score and its share of the
    values take a multiply-add each for every token that it sees.

    Args:
        layer_weights, head_weights: elements of the matrices that every token, and that every token with logits meets.
        query_values: elements of a token's queries, over all layers.
    """
    pairs = tokens * (tokens + 1) // 2
    return 2.0 * (tokens * layer_weights + head_weights + 2 * pairs * query_values)


@dataclass(frozen=True)
class ModelDemand:
    """weight_bytes: read for a token. all_weight_bytes: for many, who between them meet all experts. layer_weights,
    head_weights: elements that a token meets. cache_bytes: of a position, over all layers. query_values: elements of
    queries, over all layers. activation_bytes: of a token, between layers, in 16 bits."""

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
        """A token meets only some of the experts."""
        return self.weight_bytes < self.all_weight_bytes

    def token_bytes(self, context: float) -> float:
        """Read for one more token behind `context` others."""
        return self.weight_bytes + context * self.cache_bytes

    def prompt_operations(self, tokens: int) -> float:
        """See `prompt_operations`."""
        return prompt_operations(tokens, self.layer_weights, self.head_weights, self.query_values)


def demand_of(outline: Outline, cache_types: tuple[str, str] = ("float16", "float16")) -> ModelDemand:
    """Add it up. Windows of attention are left out of account: short contexts are what is forecast."""
    shape = outline.shape
    return ModelDemand(
        weight_bytes=outline.token_bytes,
        all_weight_bytes=outline.resident_bytes,
        layers=shape.layers,
        layer_weights=outline.active_weights,
        head_weights=shape.vocab * shape.hidden,
        cache_bytes=sum(layer.position_bytes(shape.kv_heads, cache_types) for layer in outline.cache),
        query_values=shape.layers * shape.heads * shape.head_dim,
        activation_bytes=2 * shape.hidden,
        is_quantized=outline.scheme not in FLOAT_SCHEMES,
    )


@dataclass(frozen=True)
class Run:
    """A way of running a model on cards.

    shares: of the model, by card; None: equal. engine: "llama.cpp", "llama.cpp Vulkan", "Ollama", "vLLM". is_old: of a
    build before 2025. peer_copies: None: as the cards are by themselves.
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
