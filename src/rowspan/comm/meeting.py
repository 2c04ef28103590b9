"""What ranks find each other by: plain data, from the engine to every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rowspan.comm.shared import SharedLayout


@dataclass(frozen=True)
class HostStore:
    """Where ranks of several hosts meet: a TCPStore of torch.distributed.

    host, port: of the head, as the others reach it. listener: descriptor of the socket that listens there, in the rank
    that is to run the store; -1 elsewhere. address: of the rank's own host, as the others reach it.
    """

    host: str
    port: int
    listener: int
    address: str


@dataclass(frozen=True)
class Meeting:
    """What a rank finds the others by.

    layout: of the memory they share; None where they share none. spins: see `comm/shared.py`. peers: for each rank the
    descriptor of a socket to it. store: a file, not there yet and the same for all, where cards of one host meet to set
    up NCCL. between: for ranks of several hosts.
    """

    layout: SharedLayout | None
    spins: int
    peers: Sequence[int]
    store: Path
    between: HostStore | None = None
