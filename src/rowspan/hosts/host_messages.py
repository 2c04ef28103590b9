"""Messages between the head and the other hosts, besides step plans and workers' messages: plain data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from rowspan.checkpoint.fingerprint import ModelStamp
from rowspan.plan.device import Device
from rowspan.worker.messages import WorkerSetup


def protocol_version() -> str:
    """A text that must be equal at both ends for them to understand each other's messages."""
    return f"Rowspan {version('rowspan')} on Python {sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Offer:
    """A host's first message: what it offers to the head."""

    protocol_version: str
    name: str
    host: int
    n_hosts: int
    devices: tuple[Device, ...]
    model: ModelStamp
    free_memory: int  # bytes


@dataclass(frozen=True)
class Refusal:
    """The head's answer to an offer that it can never take; its fields are the parts of an error."""

    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class Start:
    """Start these ranks. Their host itself chooses model file, cores, threads and kernels."""

    setups: tuple[WorkerSetup, ...]


@dataclass(frozen=True)
class Said:
    """A rank's message, passed on."""

    rank: int
    message: object


@dataclass(frozen=True)
class Progress:
    """The ranks' progress counters, sent if they have changed and no other message was sent."""

    counts: Mapping[int, int]


@dataclass(frozen=True)
class Failure:
    """The host's ranks are of no more use; the fields are the parts of an error. lost_peers: another host's ranks are
    the cause.
    """

    what: str
    why: str
    fix: str
    lost_peers: bool
