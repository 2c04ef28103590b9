"""Communication between ranks as part of a recorded program: natively through shared memory, or else by stopping the
program so that Python communicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rowspan._native import BatchDim
from rowspan.comm.base import Comm, SoloGroup, StageLink, TPGroup
from rowspan.comm.leader_link import LeaderLink, NoLink
from rowspan.comm.shared import SharedGroup, SharedLink
from rowspan.kernels.cpu.trace import Trace, Value

Floats = NDArray[np.float32]


def record_comm(comm: Comm[Floats], trace: Trace) -> Comm[Value]:
    """The same connections, for a model that is being recorded."""
    group = _group(comm.group, trace)
    return Comm(group, _link(comm.before, group, trace), _link(comm.after, group, trace), comm.close)


def _group(group: TPGroup[Floats], trace: Trace) -> TPGroup[Value]:
    if isinstance(group, SoloGroup):
        return SoloGroup()
    return _NativeGroup(group, trace) if isinstance(group, SharedGroup) else _CalledGroup(group, trace)


def _link(link: StageLink[Floats] | None, group: TPGroup[Value], trace: Trace) -> StageLink[Value] | None:
    if link is None:
        return None
    if isinstance(link, LeaderLink):
        return LeaderLink(_Nothing(trace) if isinstance(link.link, NoLink) else _CalledLink(link.link, trace), group)
    return _NativeLink(link, trace) if isinstance(link, SharedLink) else _CalledLink(link, trace)


@dataclass(frozen=True)
class _NativeGroup:
    shared: SharedGroup
    trace: Trace

    @property
    def tp_size(self) -> int:
        return self.shared.tp_size

    @property
    def is_leader(self) -> bool:
        return self.shared.is_leader

    def all_reduce(self, x: Value, contributes: bool) -> Value:
        parameters: dict[str, Any] = {
            "group": self.shared.native,
            "rows": x.rows,
            "width": x.width,
            "contributes": contributes,
        }
        return self.trace.op("all_reduce", {"x": x}, Value(x.rows, x.width), **parameters)

    def gather_columns(self, x: Value, widths: Sequence[int]) -> Value | None:
        # Written by one rank only; the others have it as something of no size, so that exchanges keep their order.
        out = Value(x.rows, sum(widths) if self.is_leader else 0)
        self.trace.op("gather", {"x": x}, out, group=self.shared.native, rows=x.rows, widths=list(widths))
        return out if self.is_leader else None


@dataclass(frozen=True)
class _NativeLink:
    shared: SharedLink
    trace: Trace

    def send(self, x: Value) -> None:
        if self.shared.sends:
            self.trace.change("send", {"x": x}, self, link=self.shared.native, width=x.width)

    def receive(self, shape: tuple[int, ...]) -> Value:
        out = Value(BatchDim.TOKENS, shape[1])
        parameters: dict[str, Any] = {"link": self.shared.native, "receiver": self.shared.place, "width": out.width}
        return self.trace.op("receive", {}, out, **parameters)


@dataclass(frozen=True)
class _Nothing:
    """The link of a rank that has none: it gives a value that nobody writes."""

    trace: Trace

    def send(self, x: Value) -> None:
        pass

    def receive(self, shape: tuple[int, ...]) -> Value:
        return self.trace.op(None, {}, Value(BatchDim.TOKENS, shape[1]))


@dataclass(frozen=True)
class _CalledGroup:
    group: TPGroup[Floats]
    trace: Trace

    @property
    def tp_size(self) -> int:
        return self.group.tp_size

    @property
    def is_leader(self) -> bool:
        return self.group.is_leader

    def all_reduce(self, x: Value, contributes: bool) -> Value:
        def reduce(part: Floats) -> None:
            total = self.group.all_reduce(part, contributes)
            if total is not part:
                part[:] = total

        self.trace.call(reduce, [x], [x])
        return x

    def gather_columns(self, x: Value, widths: Sequence[int]) -> Value | None:
        if not self.is_leader:
            self.trace.call(lambda part: self.group.gather_columns(part, widths), [x], [])
            return None
        out = Value(x.rows, sum(widths))

        def gather(part: Floats, whole: Floats) -> None:
            whole[:] = self.group.gather_columns(part, widths)

        self.trace.call(gather, [x, out], [out])
        return out


@dataclass(frozen=True)
class _CalledLink:
    link: StageLink[Floats]
    trace: Trace

    def send(self, x: Value) -> None:
        self.trace.call(self.link.send, [x], [])

    def receive(self, shape: tuple[int, ...]) -> Value:
        out = Value(BatchDim.TOKENS, shape[1])

        def receive(whole: Floats) -> None:
            whole[:] = self.link.receive(whole.shape)

        self.trace.call(receive, [out], [out])
        return out
