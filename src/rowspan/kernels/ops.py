"""The ops a model is made of. `kernels/torch` is the oracle; every faster implementation is tested against it.

Shapes: T tokens of one step; H, G, D = KV heads, query heads per KV head, head size of this rank; S cache slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

KEY_TILE = 256  # positions; slot tables are padded to a multiple of it, so that torch's attention has whole tiles


class Weight(Protocol):
    """A matrix in one of the runtime layouts. `x @ weight.T` has `rows` outputs and takes `columns` inputs."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class RawRows:
    """A matrix still in its file's blocks, for looking up rows: uint8 (rows, bytes per row), a view of the mapped
    file, so that a table that is also the head is not held twice."""

    scheme: str
    blocks: Tensor
    columns: int


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences with equally many query tokens in this step, attended to in one go: B sequences, M tokens each."""

    token_rows: Tensor  # int64 (B, M): their rows among the step's T tokens
    positions: Tensor  # int64 (B, M)
    slots: Tensor  # int64 (B, L): cache slot of position 0, 1, …; padded with any valid slot to a common length L
    lengths: Sequence[int]  # B: positions written, those of this step included


@dataclass(frozen=True)
class StepInputs:
    """One step's tokens, laid out for the kernels."""

    tokens: Tensor  # int64 (T,)
    positions: Tensor  # int64 (T,)
    slots: Tensor  # int64 (T,): where each token's key and value go
    groups: Sequence[AttentionGroup]
    sample_rows: Tensor  # int64: rows whose logits are wanted


@dataclass(frozen=True)
class RopeTable:
    """cos and sin of angles, float32 (positions, dim / 2); scaling is folded in."""

    cos: Tensor
    sin: Tensor
    interleaved: bool

    def at(self, positions: Tensor) -> RopeTable:
        """The rows of these positions: looked up once a step, used by every layer."""
        return RopeTable(self.cos[positions], self.sin[positions], self.interleaved)


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values: each (S, H, D)."""

    k: Tensor
    v: Tensor


class Kernels(Protocol):
    """One device's implementation of the ops."""

    def pack(self, scheme: str, raw: Tensor, shape: tuple[int, int]) -> Weight:
        """Turn a file's blocks, uint8 (rows, bytes per row), into this device's runtime layout of a (rows, columns)
        matrix."""
        ...

    def embedding(self, tokens: Tensor, table: RawRows, first_row: int) -> Tensor:
        """Rows of the table, (T, columns). The table starts at vocabulary entry `first_row`; tokens outside it give
        zeros, so that the sum over all ranks is the embedding."""
        ...

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """(T, columns) → (T, rows)."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) · weight over the last dimension (Zhang and Sennrich 2019)."""
        ...

    def rope(self, x: Tensor, angles: RopeTable) -> Tensor:
        """Rotate the leading `dim` elements of every head of x (T, heads, D) by its token's row of angles."""
        ...

    def write_cache(self, cache: LayerCache, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v (T, H, D) at their slots."""
        ...

    def attention(self, q: Tensor, cache: LayerCache, inputs: StepInputs, window: int | None) -> Tensor:
        """Causal attention of q (T, H·G, D) over each sequence's cached positions, scaled by 1/√D → (T, H·G·D).

        window: how many positions back (itself included) a token sees; None = all of them.
        """
        ...

    def gated_silu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up."""
        ...
