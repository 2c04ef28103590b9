"""The interfaces through which ranks communicate. Every rank of a plan makes the same calls in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Array = TypeVar("Array")
"""The type of a rank's data: NumPy arrays, torch's tensors, or names of buffers while a model is recorded."""


class TPGroup(Protocol[Array]):
    """The tensor-parallel ranks of one stage, which hold rows of the same layers."""

    @property
    def tp_size(self) -> int:
        """Number of ranks in the group."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this rank is rank 0 of the group."""
        ...

    def all_reduce(self, x: Array, contributes: bool) -> Array:
        """Sum x over the ranks that contribute, in float32 and in the order of ranks: every rank gets the same bits. Of
        a rank that does not contribute only the shape of x is used. May change x in place.
        """
        ...

    def gather_columns(self, x: Array, widths: Sequence[int]) -> Array | None:
        """Join the ranks' columns, each (T, widths[tp_rank]), into (T, sum(widths)) on the leader; other ranks get
        None.
        """
        ...


class StageLink(Protocol[Array]):
    """The connection from one pipeline stage to the next."""

    def send(self, x: Array) -> None:
        """Send hidden states to the next stage. Every rank of the earlier stage calls this; the leader's data are
        sent.
        """
        ...

    def receive(self, shape: tuple[int, ...]) -> Array:
        """Receive hidden states, on every rank of the later stage."""
        ...


@dataclass(frozen=True)
class Comm(Generic[Array]):
    """All connections of one rank."""

    group: TPGroup[Array]
    before: StageLink[Array] | None = None  # None: this is the first stage
    after: StageLink[Array] | None = None  # None: this is the last one
    close: Callable[[], None] = lambda: None


class SoloGroup(Generic[Array]):
    """The group of a rank that is alone in its stage."""

    tp_size = 1
    is_leader = True

    def all_reduce(self, x: Array, contributes: bool) -> Array:
        return x

    def gather_columns(self, x: Array, widths: Sequence[int]) -> Array | None:
        return x
