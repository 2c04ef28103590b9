"""A model's dimensions, as a file's header, a configuration or a catalog states them. Enough to count its bytes.

Wider than `rowspan.model.spec`, which describes what Rowspan's own engine runs: planning is of use for any model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowspan.errors import CheckpointError

GLOBAL_EVERY = {"gemma2": 2, "gemma3": 6}  # of so many layers the last sees the whole context, the others a window


@dataclass(frozen=True)
class Shape:
    """Sizes in elements, positions in tokens; 0: the model has none of it.

    architecture: as GGUF's `general.architecture` spells it.
    ffn: width of a dense layer's MLP. experts, experts_used, expert_ffn, shared_ffn: of a mixture's layers, which
        follow `dense_layers` dense ones; shared_ffn is the width that every token takes besides its experts.
    window, global_every: all layers but every n-th look back over `window` tokens only.
    q_rank, kv_rank, rope_head, value_head: multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): a position's
        cache is `kv_rank` + `rope_head` elements for all heads together.
    """

    name: str
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    window: int = 0
    global_every: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_head: int = 0
    value_head: int = 0

    @property
    def mlp_width(self) -> int:
        """Rows of a layer's gate with all experts side by side."""
        return self.experts * self.expert_ffn if self.experts else self.ffn

    @property
    def active_width(self) -> int:
        """Rows of the widest layer's gate that a token meets."""
        return max(self.ffn, self.experts_used * self.expert_ffn + self.shared_ffn)

    def is_mixture(self, layer: int) -> bool:
        return bool(self.experts) and layer >= self.dense_layers

    def window_of(self, layer: int) -> int | None:
        """Positions that a layer keeps; None: all of them."""
        if not self.window or not self.global_every or (layer + 1) % self.global_every == 0:
            return None
        return self.window


def shape_from_metadata(metadata: Mapping[str, Any], vocab: int, *, tied: bool, name: str) -> Shape:
    """Dimensions of a GGUF file of any architecture.

    Raises:
        CheckpointError: a size that planning cannot do without is missing or impossible.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise _unusable("general.architecture is missing")

    def size(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{architecture}.{key}")
        if value is not None and not isinstance(value, int | str | float):
            value = max((int(one) for one in value), default=0)  # by layer, in some architectures: count the largest
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise _unusable(f"{architecture}.{key} is {'missing' if value is None else str(value)[:40]}")
        return value

    hidden, heads = size("embedding_length"), size("attention.head_count")
    if not heads or not hidden or not size("block_count"):
        raise _unusable("it has no layers, heads or hidden size")
    kv_heads = size("attention.head_count_kv", heads) or heads
    experts = size("expert_count", 0)
    window = size("attention.sliding_window", 0) if architecture in GLOBAL_EVERY else 0
    kv_rank = size("attention.kv_lora_rank", 0)
    expert_ffn = size("expert_feed_forward_length", size("feed_forward_length", 0)) if experts else 0
    title = metadata.get("general.name")
    return Shape(
        name=title if isinstance(title, str) and title else name,
        architecture=architecture,
        layers=size("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads if kv_rank else kv_heads,
        head_dim=size("attention.key_length", hidden // heads),
        ffn=size("feed_forward_length", 0),
        vocab=vocab,
        context=size("context_length", 0),
        tied=tied,
        experts=experts,
        experts_used=size("expert_used_count", 0),
        expert_ffn=expert_ffn,
        shared_ffn=size("expert_shared_count", 0) * expert_ffn,
        dense_layers=size("leading_dense_block_count", 0),
        window=window,
        global_every=GLOBAL_EVERY.get(architecture, 0),
        kv_rank=kv_rank,
        rope_head=size("rope.dimension_count", 0) if kv_rank else 0,
    )


def _unusable(why: str) -> CheckpointError:
    return CheckpointError(
        "The model's header is not enough to plan with.",
        why=f"{why[0].upper()}{why[1:]}.",
        fix="Fetch or convert the model again, or name a shape of the catalog: `rowspan plan --list`.",
    )
