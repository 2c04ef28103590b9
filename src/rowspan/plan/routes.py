"""Which transport carries what ranks say to each other, and why. Pure; `comm/connect.py` makes the connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from rowspan.plan.device import Device
from rowspan.plan.split import Plan


class Transport(StrEnum):
    SHARED = "shm"  # memory that processes on one host share
    SOCKETS = "sockets"  # Unix sockets, where there is no native module
    NCCL = "nccl"  # from card to card; RCCL on ROCm
    HOST = "host"  # from card to card through pinned memory of the host
    GLOO = "gloo"  # between hosts


@dataclass(frozen=True)
class Route:
    transport: Transport
    why: str


@dataclass(frozen=True)
class Routes:
    """groups: of each stage's ranks, None where a stage is one rank. links: from each stage to the next."""

    groups: tuple[Route | None, ...]
    links: tuple[Route, ...]

    def uses(self, transport: Transport) -> bool:
        return any(route is not None and route.transport is transport for route in (*self.groups, *self.links))


def choose_routes(plan: Plan, *, native: bool, broken: Mapping[Transport, str] | None = None) -> Routes:
    """The fastest transport for each that is not known to be broken.

    Args:
        native: there is a native module here, which shared memory takes.
        broken: transports that a probe found wanting, and how.
    """
    bad = broken or {}

    only_cards = all(shard.device.kind == "cuda" for shard in plan.shards)

    def between(devices: Sequence[Device]) -> Route:
        kinds = {device.kind for device in devices}
        if len({device.host for device in devices}) > 1 and not (only_cards and Transport.NCCL not in bad):
            return Route(Transport.GLOO, "from host to host")
        if kinds == {"cuda"}:
            if Transport.NCCL not in bad:
                return Route(Transport.NCCL, "cards, from one to the other")
            return Route(Transport.HOST, f"through the host's memory: {bad[Transport.NCCL]}")
        if not native:
            return Route(Transport.SOCKETS, "there is no native module here to share memory with")
        if kinds == {"cpu"}:
            return Route(Transport.SHARED, "CPU ranks of one host")
        return Route(Transport.HOST, "a card and a CPU")

    stages = [plan.stage(index) for index in range(plan.n_stages)]
    devices = [[shard.device for shard in stage] for stage in stages]
    return Routes(
        tuple(between(group) if len(group) > 1 else None for group in devices),
        tuple(between([earlier[0], *later]) for earlier, later in pairwise(devices)),
    )
