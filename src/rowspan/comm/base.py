"""What ranks say to each other. Every rank of a plan makes the same calls in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Array = TypeVar("Array")
"""What a rank computes with: NumPy arrays, torch's tensors, or names of buffers while a model is recorded."""


class TPGroup(Protocol[Array]):
    """The ranks of one stage, which hold rows of the same layers."""

    @property
    def tp_size(self) -> int:
        """How many ranks they are."""
        ...

    @property
    def is_leader(self) -> bool:
        """This rank is rank 0 of the group."""
        ...

    def all_reduce(self, x: Array, contributes: bool) -> Array:
        """Sum of x over those that contribute, added in float32 in the order of ranks: the same bits everywhere. The x
        of one that does not contribute is only looked at for its shape. May change x in place."""
        ...

    def gather_columns(self, x: Array, widths: Sequence[int]) -> Array | None:
        """Join each rank's columns, (T, widths[tp_rank]), to (T, sum(widths)) on its leader; None elsewhere."""
        ...


class StageLink(Protocol[Array]):
    """From one stage to the next."""

    def send(self, x: Array) -> None:
        """Hand hidden states on. Every rank of the earlier stage calls; its leader's are sent."""
        ...

    def receive(self, shape: tuple[int, ...]) -> Array:
        """Take them, on every rank of the later stage."""
        ...


@dataclass(frozen=True)
class Comm(Generic[Array]):
    """One rank's connections."""

    group: TPGroup[Array]
    before: StageLink[Array] | None = None  # None: this is the first stage
    after: StageLink[Array] | None = None  # None: this is the last one
    close: Callable[[], None] = lambda: None


class SoloGroup(Generic[Array]):
    """A rank that is alone in its stage."""

    tp_size = 1
    is_leader = True

    def all_reduce(self, x: Array, contributes: bool) -> Array:
        return x

    def gather_columns(self, x: Array, widths: Sequence[int]) -> Array | None:
        return x
