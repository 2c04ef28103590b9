"""What ranks say to each other. Every rank of a plan makes the same calls in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from rowspan.plan.split import Plan

Array = TypeVar("Array")
"""What a rank computes with: NumPy arrays, or torch's tensors."""


class Comm(Protocol[Array]):
    """One rank's connections: to the row group of its stage, and to the stages before and after."""

    @property
    def rows(self) -> int:
        """Ranks of the row group."""
        ...

    @property
    def leads(self) -> bool:
        """This rank is row 0 of its stage."""
        ...

    def all_reduce(self, x: Array) -> Array:
        """Sum over the row group; every rank gets the same bits. May change x in place."""
        ...

    def gather_columns(self, x: Array, widths: Sequence[int]) -> Array | None:
        """Join each row rank's columns, (T, widths[row]), to (T, sum(widths)) on row 0; None elsewhere."""
        ...

    def send_stage(self, x: Array) -> None:
        """Hand hidden states to the next stage."""
        ...

    def receive_stage(self, shape: tuple[int, ...]) -> Array:
        """Take hidden states from the previous stage."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Neighbours:
    """Whom a rank talks to. Between stages the row-0 ranks talk; row 0 then tells its group."""

    members: tuple[int, ...]  # its stage's row group, itself included
    leads: bool  # it is row 0
    next: int | None  # row 0 of the next stage
    previous: int | None  # row 0 of the previous stage

    @classmethod
    def of(cls, plan: Plan, rank: int) -> Neighbours:
        stage = plan.shards[rank].stage
        members = tuple(shard.rank for shard in plan.stage(stage))
        return cls(
            members=members,
            leads=rank == members[0],
            next=plan.stage(stage + 1)[0].rank if stage + 1 < plan.n_stages else None,
            previous=plan.stage(stage - 1)[0].rank if stage else None,
        )


class SoloComm(Generic[Array]):
    """A rank that is alone."""

    rows = 1
    leads = True

    def all_reduce(self, x: Array) -> Array:
        return x

    def gather_columns(self, x: Array, widths: Sequence[int]) -> Array | None:
        return x

    def send_stage(self, x: Array) -> None:
        raise RuntimeError("a lone rank has no next stage")

    def receive_stage(self, shape: tuple[int, ...]) -> Array:
        raise RuntimeError("a lone rank has no previous stage")

    def close(self) -> None:
        pass
