"""Plain data that the engine sends to every rank, by which ranks find each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rowspan.comm.shared import SharedLayout


@dataclass(frozen=True)
class HostStore:
    """The meeting point of ranks on several hosts: a TCPStore of torch.distributed.

    host, port: the head's address, as the other hosts reach it.
    listener: descriptor of the socket that listens there, in the rank that is to run the store; -1 elsewhere.
    address: the address of the rank's own host, as the others reach it.
    """

    host: str
    port: int
    listener: int
    address: str


@dataclass(frozen=True)
class Meeting:
    """One rank's means to find the others.

    layout: layout of the memory that the ranks share; None if they share none.
    spins: see `comm/shared.py`.
    peers: for each rank the descriptor of a socket to it.
    store: path of a file, not there yet and the same for all, through which cards of one host meet to set up NCCL.
    between: the meeting point if ranks are on several hosts.
    """

    layout: SharedLayout | None
    spins: int
    peers: Sequence[int]
    store: Path
    between: HostStore | None = None
