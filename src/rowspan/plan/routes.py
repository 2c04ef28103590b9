"""Chooses the transport for each group and link of ranks, and says why. Pure; `comm/connect.py` makes the
connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from rowspan.errors import SplitError
from rowspan.plan.device import Device
from rowspan.plan.shard import Plan


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
    """The transports of a plan.

    groups: for each stage that of its ranks; None if the stage is a single rank.
    links: that from each stage to the next.
    probed: they were tried on this machine, and data arrived as sent (`comm/probing/trusted.py`).
    """

    groups: tuple[Route | None, ...]
    links: tuple[Route, ...]
    probed: bool = False

    @property
    def transports(self) -> tuple[Transport, ...]:
        """The transports that are used, each once."""
        return tuple(dict.fromkeys(route.transport for route in (*self.groups, *self.links) if route is not None))

    def uses(self, transport: Transport) -> bool:
        return any(route is not None and route.transport is transport for route in (*self.groups, *self.links))


def choose_routes(plan: Plan, *, native: bool, broken: Mapping[Transport, str] | None = None) -> Routes:
    """Choose for each group and link the fastest transport that is not known to be broken.

    Args:
        native: whether this machine has the native module, which shared memory needs.
        broken: transports that failed a probe, and how.

    Raises:
        SplitError: no transport is left.
    """
    bad = broken or {}
    only_cards = all(shard.device.kind == "cuda" for shard in plan.shards)
    cards = [shard.device for shard in plan.shards if shard.device.kind == "cuda"]
    shared = len(set(cards)) < len(cards)  # NCCL refuses two ranks on one card, in all that the plan's cards say

    def between(devices: Sequence[Device]) -> Route:
        across = len({device.host for device in devices}) > 1
        ways = _ways({device.kind for device in devices}, native=native, across=across, only_cards=only_cards)
        if shared:
            ways = {transport: why for transport, why in ways.items() if transport is not Transport.NCCL}
        sound = [transport for transport in ways if transport not in bad]
        if not sound:
            raise SplitError(
                f"No transport can be trusted between {', '.join(map(str, devices))}.",
                why="; ".join(f"{transport}: {bad[transport]}" for transport in ways) + ".",
                fix="Use --split-mode none, or see what `rowspan doctor --probe` says.",
            )
        switched_off = [f"{transport} is switched off: {bad[transport]}" for transport in ways if transport in bad]
        before = switched_off[: list(ways).index(sound[0])]
        return Route(sound[0], "; ".join([ways[sound[0]], *before]))

    stages = [plan.stage(index) for index in range(plan.n_stages)]
    devices = [[shard.device for shard in stage] for stage in stages]
    return Routes(
        tuple(between(group) if len(group) > 1 else None for group in devices),
        tuple(between([earlier[0], *later]) for earlier, later in pairwise(devices)),
    )


def _ways(kinds: set[str], *, native: bool, across: bool, only_cards: bool) -> Mapping[Transport, str]:
    """Transports between devices of these kinds, fastest first, each with the reason to choose it.

    Args:
        across: the devices are on several hosts.
        only_cards: all of the plan's devices are cards: only then NCCL crosses hosts.
    """
    if across:
        gloo = {Transport.GLOO: "from host to host"}
        return {Transport.NCCL: "cards of several hosts"} | gloo if only_cards else gloo
    if not native:
        sockets = {Transport.SOCKETS: "there is no native module here to share memory with"}
        return {Transport.NCCL: "cards, from one to the other"} | sockets if kinds == {"cuda"} else sockets
    sockets = {Transport.SOCKETS: "Unix sockets of one host"}
    if kinds == {"cuda"}:
        host = {Transport.HOST: "cards, through the host's memory"}
        return {Transport.NCCL: "cards, from one to the other"} | host | sockets
    if kinds == {"cpu"}:
        return {Transport.SHARED: "CPU ranks of one host"} | sockets
    return {Transport.HOST: "a card and a CPU"} | sockets
