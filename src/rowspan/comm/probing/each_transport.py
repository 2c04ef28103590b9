"""Tries each transport on this machine's devices, for the doctor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rowspan.comm.probing.exercises import SIZES
from rowspan.comm.probing.plan import bare_plan
from rowspan.comm.probing.supervise import NotProbed, probe_routes
from rowspan.plan.device import Device
from rowspan.plan.routes import Route, Routes, Transport
from rowspan.rig.root import Unreadable

SPAN = f"{SIZES[0] >> 10} KiB to {SIZES[-1] >> 20} MiB"
CPUS = (Device("cpu", 0), Device("cpu", 1))


def probe_transport(transport: Transport, n_cards: int, native: Any) -> Mapping[str, str]:
    """Try a transport for a split by row and one by layer. Returns for each trial the failure, or "" if everything
    arrived as sent.

    Raises:
        Unreadable: the transport could not be tried.
    """
    if native is None and transport in (Transport.SHARED, Transport.HOST):
        raise Unreadable(transport, "there is no native module here", "Install a build with native kernels.")
    tried = {}
    for stages in _splits(transport, [Device("cuda", index) for index in range(n_cards)]):
        plan = bare_plan(stages)
        route = Route(transport, "")
        groups = tuple(route if len(stage) > 1 else None for stage in stages)
        try:
            fault = probe_routes(plan, Routes(groups, (route,) * (len(stages) - 1)), native)
        except NotProbed as reason:
            raise Unreadable(
                transport, str(reason), "Install the build of torch that is made for your cards."
            ) from None
        devices = ", ".join(str(shard.device) for shard in plan.shards)
        way = "layer, hand-overs" if len(stages) > 1 else "row, sums and gathers"
        tried[f"{devices} by {way} of {SPAN}"] = fault.what if fault else ""
    return tried


def _splits(transport: Transport, cards: Sequence[Device]) -> list[list[list[Device]]]:
    """The splits to try, each as stages of devices."""
    if transport in (Transport.SHARED, Transport.SOCKETS):
        return [[list(CPUS)], [[cpu] for cpu in CPUS]]
    by_row = [[list(cards)]] if len(cards) > 1 else []
    if transport is Transport.HOST:
        cards = [*cards, CPUS[0]]
    return [*by_row, [[device] for device in cards]]
