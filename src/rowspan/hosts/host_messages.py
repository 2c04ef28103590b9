"""What the head and the other hosts tell each other, besides step plans and what workers say: plain data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from rowspan.checkpoint.stamp import ModelStamp
from rowspan.plan.device import Device
from rowspan.worker.messages import WorkerSetup


def protocol_version() -> str:
    """What both ends must be alike in, to understand each other's messages."""
    return f"Rowspan {version('rowspan')} on Python {sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Offer:
    """The first message of a host: what it has for the head."""

    protocol_version: str
    name: str
    host: int
    n_hosts: int
    devices: tuple[Device, ...]
    model: ModelStamp
    free_memory: int  # bytes


@dataclass(frozen=True)
class Refusal:
    """The head's answer to an offer that it can never take; the parts of an error."""

    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class Start:
    """Start these ranks. Model file, cores, threads and kernels are for their host to choose."""

    setups: tuple[WorkerSetup, ...]


@dataclass(frozen=True)
class Said:
    """A rank's message, passed on."""

    rank: int
    message: object


@dataclass(frozen=True)
class Progress:
    """Counts of the ranks' work, when they have changed and nothing else was to say."""

    counts: Mapping[int, int]


@dataclass(frozen=True)
class Failure:
    """The host's ranks are of no more use; the parts of an error. lost_peers: because of another host's."""

    what: str
    why: str
    fix: str
    lost_peers: bool
