"""What a probe of transports has ranks do: every call of a plan's groups and links, at a decoding step's size and at a
prompt's. Plain data, from who starts a probe to its ranks (`comm/probing/supervise.py`, `comm/probing/probe.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rowspan.comm.meeting import Meeting
from rowspan.plan.routes import Routes, Transport
from rowspan.plan.split import Plan

SIZES = (16 << 10, 256 << 10, 2 << 20, 16 << 20)
"""Bytes of a message: from a token's hidden states of a 70B model (8192 floats are 32 KiB) to those of 512 tokens."""
MOST_ROUNDS = 8  # with fresh data each; of long messages fewer
ROUNDS_BYTES = 4 << 20


class Act(StrEnum):
    SUM = "all-reduce"
    GATHER = "gather"
    HAND_OVER = "hand-over"


@dataclass(frozen=True)
class Exercise:
    """One call, to be repeated.

    place: the stage, or the earlier one of two. widths: of each rank's part of a gather; else the one of all.
    """

    act: Act
    transport: Transport
    place: int
    ranks: tuple[int, ...]
    rows: int
    widths: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the largest part."""
        return 4 * self.rows * max(self.widths)

    @property
    def rounds(self) -> int:
        return max(1, min(MOST_ROUNDS, ROUNDS_BYTES // self.nbytes))

    def __str__(self) -> str:
        size = f"{self.nbytes / 1024:.0f} KiB" if self.nbytes < 1 << 20 else f"{self.nbytes / (1 << 20):.1f} MiB"
        return f"{self.act} of {size} between ranks {', '.join(map(str, self.ranks))}"


def exercises(plan: Plan, routes: Routes) -> list[Exercise]:
    """In an order that every rank keeps."""
    return list(dict.fromkeys(_exercises(plan, routes)))  # of a wide vocabulary small sizes are one row, and the same


def _exercises(plan: Plan, routes: Routes) -> Iterator[Exercise]:
    hidden = plan.spec.hidden_size
    for stage, group in enumerate(routes.groups):
        if group is None:
            continue
        members = plan.stage(stage)
        ranks = tuple(shard.rank for shard in members)
        vocab = tuple(len(shard.vocab) for shard in members)
        for size in SIZES:
            yield Exercise(Act.SUM, group.transport, stage, ranks, rows_of(size, hidden), (hidden,))
            if max(vocab):
                yield Exercise(Act.GATHER, group.transport, stage, ranks, rows_of(size, max(vocab)), vocab)
    for earlier, link in enumerate(routes.links):
        ranks = tuple(shard.rank for shard in (*plan.stage(earlier), *plan.stage(earlier + 1)))
        for size in SIZES:
            yield Exercise(Act.HAND_OVER, link.transport, earlier, ranks, rows_of(size, hidden), (hidden,))


def rows_of(nbytes: int, width: int) -> int:
    """Rows of so many floats that about fill a message."""
    return max(1, nbytes // (4 * width))


@dataclass(frozen=True)
class ProbeSetup:
    """The first message to a rank of a probe.

    memory: file descriptor of what all ranks share; -1: nothing. native: name of the compiled module, None without
    one. tensors: the rank hands over torch's tensors, as one that computes with torch does. seed: of all data.
    """

    rank: int
    plan: Plan
    routes: Routes
    meeting: Meeting
    memory: int
    native: str | None
    tensors: bool
    seed: int


@dataclass(frozen=True)
class Begins:
    """A rank begins an exercise, counted from 0."""

    exercise: int


@dataclass(frozen=True)
class Wrong:
    """What arrived in the exercise that the rank began last is not what was sent."""

    how: str


@dataclass(frozen=True)
class NoDevice:
    """The rank has no device of the plan's name: nothing can be tried."""

    why: str


@dataclass(frozen=True)
class Ended:
    """A rank has done everything, and everything was right."""


Report = Begins | Wrong | NoDevice | Ended


def largest_rows(exercise_list: Sequence[Exercise], act: Act) -> int:
    """Of one kind of exercise; 1 where there are none."""
    return max((each.rows for each in exercise_list if each.act is act), default=1)
