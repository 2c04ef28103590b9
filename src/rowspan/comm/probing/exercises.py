"""The exercises of a transport probe: every call of a plan's groups and links, with messages as large as a decoding
step's and as a prompt's. Plain data from the process that starts a probe (`comm/probing/supervise.py`) to its ranks
(`comm/probing/probe.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rowspan.comm.meeting import Meeting
from rowspan.plan.routes import Routes, Transport
from rowspan.plan.shard import Plan

SIZES = (16 << 10, 256 << 10, 2 << 20, 16 << 20)
"""Bytes of a message: from the hidden states of one token in a 70B model (8192 floats are 32 KiB) to those of 512
tokens.
"""
MOST_ROUNDS = 8  # each round has fresh data; long messages get fewer rounds
ROUNDS_BYTES = 4 << 20


class Act(StrEnum):
    SUM = "all-reduce"
    GATHER = "gather"
    HAND_OVER = "hand-over"


@dataclass(frozen=True)
class Exercise:
    """One call that ranks repeat.

    place: number of the stage, or of the earlier one of two stages.
    widths: for a gather the width of each rank's part; else one width for all.
    """

    act: Act
    transport: Transport
    place: int
    ranks: tuple[int, ...]
    rows: int
    widths: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the largest rank's part."""
        return 4 * self.rows * max(self.widths)

    @property
    def rounds(self) -> int:
        return max(1, min(MOST_ROUNDS, ROUNDS_BYTES // self.nbytes))

    def __str__(self) -> str:
        size = f"{self.nbytes / 1024:.0f} KiB" if self.nbytes < 1 << 20 else f"{self.nbytes / (1 << 20):.1f} MiB"
        return f"{self.act} of {size} between ranks {', '.join(map(str, self.ranks))}"


def exercises(plan: Plan, routes: Routes) -> list[Exercise]:
    """All exercises, in the order in which every rank does them."""
    return list(dict.fromkeys(_exercises(plan, routes)))  # some sizes become the same number of rows


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
    """Number of rows of `width` floats that about fill a message."""
    return max(1, nbytes // (4 * width))


@dataclass(frozen=True)
class ProbeSetup:
    """The first message to a rank of a probe.

    memory: file descriptor of the memory that all ranks share; -1 if there is none.
    native: name of the compiled module; None if there is none.
    tensors: whether the rank sends torch's tensors, as a rank that computes with torch does.
    seed: seed of all random data.
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
    """A rank's report that it begins an exercise, counted from 0."""

    exercise: int


@dataclass(frozen=True)
class Wrong:
    """A rank's report that in the exercise that it began last, data did not arrive as sent."""

    how: str


@dataclass(frozen=True)
class NoDevice:
    """A rank's report that its device does not exist, so that nothing can be tried."""

    why: str


@dataclass(frozen=True)
class Ended:
    """A rank's report that it has done all exercises, and that all data were right."""


Report = Begins | Wrong | NoDevice | Ended


def largest_rows(exercise_list: Sequence[Exercise], act: Act) -> int:
    """The largest number of rows in any exercise of one kind; 1 if there is no such exercise."""
    return max((each.rows for each in exercise_list if each.act is act), default=1)
