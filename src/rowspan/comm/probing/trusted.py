"""Knows which of this machine's transports return what was sent: tries them once, and remembers the result until
driver, kernel or topology change.

Some drivers and platforms allow copies between cards that corrupt data, or collectives that never return; so no
transport is used that has not been seen to work here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rowspan.comm.probing.plan import part_on
from rowspan.comm.probing.supervise import NotProbed, probe_routes
from rowspan.config import Paths
from rowspan.errors import SplitError
from rowspan.json_store import read_json, write_json
from rowspan.plan.routes import Routes, Transport, choose_routes
from rowspan.plan.shard import Plan

log = logging.getLogger(__name__)

REMEMBERED = 32  # number of verdicts that are kept
ENVIRONMENT = ("NCCL_", "RCCL_", "HSA_", "HIP_", "ROCR_", "CUDA_")  # variables that change how cards talk
NO_PEERS = "NCCL_P2P_DISABLE"

Faults = Mapping[Transport, str]


def trusted_routes(plan: Plan, native: Any) -> Routes:
    """Routes over transports that are known to return what was sent; unknown ones are tried first. For a plan over
    several hosts this tries the first host's part: each other host tries its own, by `check_host`.

    Takes half a second for CPU ranks, and some ten for cards, once for each way to split this machine.

    Raises:
        SplitError: no transport is left.
    """
    faults = _known_or_probed(part_on(plan, 0), native)
    if faults is None:
        return choose_routes(plan, native=native is not None)
    routes = replace(choose_routes(plan, native=native is not None, broken=faults), probed=True)
    for transport, what in faults.items():
        log.warning(
            "%s is switched off, ranks use %s: %s. `rowspan doctor --probe` tries it again.",
            transport,
            ", ".join(routes.transports),
            what,
        )
    return routes


def check_host(plan: Plan, routes: Routes, host: int, native: Any) -> None:
    """On a host other than the first, try this host's part of a plan, unless the result is known already.

    Raises:
        SplitError: a transport that the routes use cannot be trusted there.
    """
    for transport, what in (_known_or_probed(part_on(plan, host), native) or {}).items():
        if routes.uses(transport):
            raise SplitError(
                f"{transport} cannot be trusted here.",
                why=f"{what}.",
                fix="See what `rowspan doctor --probe` says on that host, or leave it out.",
            )


def _known_or_probed(plan: Plan, native: Any) -> Faults | None:
    """The faults that are known or that a probe finds; None if nothing could be tried. Raises SplitError if no
    transport is left.
    """
    circumstances = circumstances_of(plan, native)
    faults = recall(circumstances)
    if faults is None:
        started = time.monotonic()
        try:
            faults = find_faults(plan, native)
        except NotProbed as reason:
            log.info("Transports are not probed: %s.", reason)
            return None
        log.info("Transports were probed in %.1f s.", time.monotonic() - started)
        remember(circumstances, faults)
    return faults


def known_routes(plan: Plan, native: Any) -> Routes:
    """Like `trusted_routes`, but without trying: unknown transports are taken to be sound, and marked as not probed."""
    faults = recall(circumstances_of(part_on(plan, 0), native)) if len(plan.shards) > 1 else None
    routes = choose_routes(plan, native=native is not None, broken=faults)
    return replace(routes, probed=faults is not None)


def find_faults(plan: Plan, native: Any) -> Faults:
    """Try the best routes, then the next best ones, until some are sound; returns the faults of those tried before.

    Raises:
        NotProbed: a device does not exist.
        SplitError: no transport is left.
    """
    faults: dict[Transport, str] = {}
    while True:
        routes = choose_routes(plan, native=native is not None, broken=faults)
        fault = probe_routes(plan, routes, native)
        if fault is not None:
            faults[fault.transport] = fault.what
        elif routes.uses(Transport.NCCL) and (how := _copies_lie(plan)):
            faults[Transport.NCCL] = how
        else:
            return faults


def _copies_lie(plan: Plan) -> str:
    """How copies between a plan's cards go wrong; empty if they do not. NCCL builds on these copies."""
    from rowspan.rig.copies import try_copies
    from rowspan.rig.root import Unreadable

    cards = {str(shard.device) for shard in plan.shards if shard.device.kind == "cuda"}
    if os.environ.get(NO_PEERS) == "1" or len(cards) < 2:
        return ""
    try:
        copies = try_copies()
    except Unreadable as error:
        return str(error)
    lies = [pair for pair, same in copies.items() if not same and cards.issuperset(pair.split(" → "))]
    return f"copies {', '.join(lies)} differ from what was sent" if lies else ""


def circumstances_of(plan: Plan, native: Any) -> dict[str, Any]:
    """The circumstances for which a verdict holds: versions, the machine, the split. The model is not among them, since
    the messages of all models are alike.
    """
    kernel = os.uname()
    topology: dict[str, Any] = {
        "stages": [[str(shard.device) for shard in plan.stage(stage)] for stage in range(plan.n_stages)],
        "cores": len(os.sched_getaffinity(0)),
        "numa": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))),
    }
    facts = {
        "rowspan": importlib.metadata.version("rowspan"),
        "native": native is not None,
        "kernel": f"{kernel.release} {kernel.version} {kernel.machine}",
        "topology": topology,
    }
    if any(shard.device.kind == "cuda" for shard in plan.shards):
        facts["torch"] = importlib.metadata.version("torch")  # NCCL comes with it
        facts["environment"] = {name: text for name, text in sorted(os.environ.items()) if name.startswith(ENVIRONMENT)}
        facts["driver"], topology["cards"], topology["peers"] = _cards()
    return facts


def _cards() -> tuple[list[str], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Drivers, cards, and which cards reach each other."""
    from rowspan.rig.probe.rig import probe
    from rowspan.rig.root import Root

    rig = probe(Root())
    cards = rig.compute_cards
    drivers = sorted({card.driver or "unknown" for card in cards})
    places = [(card.address, card.name, card.firmware, card.numa_node) for card in cards]
    return drivers, places, [(peer.source, peer.target, peer.direct, peer.how) for peer in rig.peers]


def recall(circumstances: Mapping[str, Any]) -> Faults | None:
    """The faults remembered for these circumstances; None if these have not been tried."""
    try:
        found = _read()[_digest(circumstances)]["faults"]
        return {Transport(transport): str(what) for transport, what in found.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def remember(circumstances: Mapping[str, Any], faults: Faults) -> None:
    """Store a verdict. If the folder cannot be written to, the next start merely probes again."""
    path = Paths.from_env().probes
    kept = _read()
    kept.pop(_digest(circumstances), None)
    kept[_digest(circumstances)] = {"circumstances": circumstances, "faults": faults}
    try:
        write_json(path, dict(list(kept.items())[-REMEMBERED:]))
    except OSError as error:
        log.info("What the probe found is not remembered: %s", error)


def forget() -> None:
    """Forget all verdicts, so that every split is probed anew at its next start."""
    with suppress(OSError):
        Paths.from_env().probes.unlink()


def _read() -> dict[str, Any]:
    """All stored verdicts; none if the file is missing or damaged."""
    try:
        kept = read_json(Paths.from_env().probes)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _digest(circumstances: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()[:16]
