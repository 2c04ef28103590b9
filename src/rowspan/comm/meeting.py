"""What ranks find each other by: plain data, from the engine to every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rowspan.comm.shared import SharedLayout


@dataclass(frozen=True)
class Meeting:
    """What a rank finds the others by.

    layout: of the memory they share; None where they share none. looks: see `comm/shared.py`. peers: for each rank the
    descriptor of a socket to it. store: a file, not there yet and the same for all, where cards meet to set up NCCL.
    """

    layout: SharedLayout | None
    looks: int
    peers: Sequence[int]
    store: Path
