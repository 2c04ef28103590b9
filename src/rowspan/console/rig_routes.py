"""The rig as the console shows it: what it is, how the model lies on it, how it is now, and what the doctor finds.

Pages ask; nothing is watched for them. So there is no work when no page is open, and nothing keeps a server from
ending. (Server-sent events would also take one of the six connections that a browser opens to a host, for each tab.)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from threading import Lock
from typing import Any

import psutil
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from rowspan.console.served import Served, blueprint_of
from rowspan.engine.describe import describe
from rowspan.errors import UsageError
from rowspan.kernels.isa import available_isas
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.checks import all_checks
from rowspan.rig.doctor import examine
from rowspan.rig.probe.cpu import probe_memory
from rowspan.rig.probe.rig import probe, probe_cards
from rowspan.rig.root import Root

Json = dict[str, Any]
NOW_SECONDS = 0.5  # how long a look at the sensors is good for several tabs


def rig_routes(served: Served) -> APIRouter:
    router = APIRouter(prefix="/console/api", include_in_schema=False)
    sensors = _Shared(_look, NOW_SECONDS)

    @router.get("/rig")
    def rig() -> Json:
        """What stays the same while the server runs."""
        backend = served.backend
        machine, blueprint = probe(Root()), blueprint_of(backend)
        return {
            "model": served.model_name,
            "backend": {"name": backend.name, "version": backend.version, "command": list(backend.command)},
            "machine": {
                "system": machine.system.distribution,
                "kernel": machine.system.kernel,
                "cpu": asdict(machine.cpu),
                "memory": machine.memory.total,
                "cards": [asdict(card) for card in machine.cards],
                "peers": [asdict(peer) for peer in machine.peers],
                "unread": machine.unread,
            },
            "kernels": list(available_isas()),
            "plan": None if blueprint is None else describe(blueprint).to_dict(),
            "dtypes": [] if blueprint is None else sorted({lead.dtype for lead in blueprint.kernels}),
        }

    @router.get("/now")
    async def now() -> Json:
        """What changes from second to second. Wakes nothing."""
        stats = await served.backend.stats()
        return {
            **await run_in_threadpool(sensors),
            "state": served.backend.health().state,
            "scheduler": None if stats is None else asdict(stats),
        }

    @router.get("/doctor")
    def doctor() -> Json:
        """The doctor's verdicts, for the split in use. Takes up to some seconds."""
        blueprint = blueprint_of(served.backend)
        mode = SplitMode.LAYER if blueprint is None else blueprint.plan.mode
        return examine(Root(), all_checks(), mode, kernels=tuple(available_isas())).to_dict()

    @router.post("/sleep")
    async def sleep() -> Json:
        if not await served.sleep():
            raise UsageError("Requests are running.", fix="Try again when they have ended.")
        return {"state": served.backend.health().state}

    @router.post("/wake")
    async def wake() -> Json:
        await served.wake()
        return {"state": served.backend.health().state}

    return router


def _look() -> Json:
    memory = probe_memory()
    return {
        "time": time.time(),
        "cpu": psutil.cpu_percent(),  # of all cores, since it was last asked
        "memory": {"total": memory.total, "free": memory.free},
        "cards": [
            {
                "address": card.address,
                **{name: getattr(card, name) for name in ("memory_total", "memory_free", "busy", "watts", "celsius")},
                "link": None if card.link is None else asdict(card.link),
            }
            for card in probe_cards()
        ],
    }


class _Shared:
    """A function whose answer is good for some time, however many ask."""

    def __init__(self, look: Callable[[], Json], seconds: float) -> None:
        self._look, self._seconds = look, seconds
        self._lock, self._answer, self._until = Lock(), Json(), 0.0

    def __call__(self) -> Json:
        with self._lock:
            if time.monotonic() > self._until:
                self._answer, self._until = self._look(), time.monotonic() + self._seconds
            return self._answer
