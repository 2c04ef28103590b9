"""A rank of a probe whose transport has a fault: `python faulty_probe.py TRANSPORT FAULT FD`. See
`rowspan.comm.probing.probe`.

FAULT: flip (a bit of one word, in messages of 256 KiB or more, at rank 1), hang, kill, or raise. Other transports are
sound.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rowspan.comm.base import Comm
from rowspan.comm.connect import connect
from rowspan.comm.probing import probe
from rowspan.plan.routes import Routes

FAULTY_BYTES = 256 << 10 >> 1
RANK = 1


class Faulty:
    """A group or link that does something else on the way."""

    def __init__(self, sound: Any, fault: str) -> None:
        self.sound = sound
        self.tp_size = getattr(sound, "tp_size", 0)
        self.is_leader = getattr(sound, "is_leader", False)
        self._fault = fault

    def all_reduce(self, x: Any, contributes: bool) -> Any:
        return self._through(self.sound.all_reduce(x, contributes))

    def gather_columns(self, x: Any, widths: Sequence[int]) -> Any:
        return self.sound.gather_columns(x, widths)

    def send(self, x: Any) -> None:
        self.sound.send(x)

    def receive(self, shape: tuple[int, ...]) -> Any:
        return self._through(self.sound.receive(shape))

    def _through(self, x: Any) -> Any:
        if x.nbytes < FAULTY_BYTES:
            return x
        match self._fault:
            case "flip":
                np.asarray(x).reshape(-1).view(np.uint32)[77] ^= 1 << 3
            case "hang":
                time.sleep(600)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError("peer access is not supported between these two devices")
        return x


def main() -> None:
    transport, fault = sys.argv[1:3]
    del sys.argv[1:3]

    def connect_faulty(plan: Any, rank: int, routes: Routes, *rest: Any) -> Comm[Any]:
        comm = connect(plan, rank, routes, *rest)
        if rank != RANK or not any(used == transport for used in routes.transports):
            return comm
        return replace(
            comm,
            group=Faulty(comm.group, fault),
            before=None if comm.before is None else Faulty(comm.before, fault),
        )

    probe.connect = connect_faulty  # type: ignore[attr-defined, assignment]
    probe.main()


if __name__ == "__main__":
    main()
