"""Connects a rank to the others over the transports that the plan's routes name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowspan.comm.base import Comm, SoloGroup
from rowspan.comm.leader_link import LeaderLink, NoLink
from rowspan.comm.meeting import Meeting
from rowspan.comm.shared import SharedGroup, SharedLayout, SharedLink, SharedMemory
from rowspan.comm.sockets import SocketGroup, SocketLink, Sockets
from rowspan.plan.routes import Route, Routes, Transport
from rowspan.plan.shard import Plan


@dataclass(frozen=True)
class Computes:
    """How a rank computes.

    native: the compiled module; None if there is none.
    isa: the instruction set that adds up data in shared memory.
    torch_dtype: the hidden states' type, if the rank computes with torch.
    """

    native: Any
    isa: str
    torch_dtype: str | None


def connect(
    plan: Plan, rank: int, routes: Routes, meeting: Meeting, memory: SharedMemory | None, computes: Computes
) -> Comm[Any]:
    """Join the other ranks of a plan.

    Returns:
        Connections that carry contiguous float32 arrays, or torch's tensors if the transport is NCCL.

    Args:
        memory: the memory that all ranks of this host share, laid out as the meeting says.
    """
    if len(plan.shards) == 1:
        return Comm(SoloGroup())
    return _Connector(plan, rank, meeting, memory, computes).connect(routes)


class _Connector:
    def __init__(
        self, plan: Plan, rank: int, meeting: Meeting, memory: SharedMemory | None, computes: Computes
    ) -> None:
        self._plan = plan
        self._shard = plan.shards[rank]
        self._meeting = meeting
        self._memory = memory
        self._computes = computes
        self._sockets = Sockets(rank, meeting.peers)
        self._store: Any = None
        self._nccl: Any = None

    def connect(self, routes: Routes) -> Comm[Any]:
        stage = self._shard.stage
        group = routes.groups[stage]
        if routes.uses(Transport.NCCL) and self._shard.device.kind == "cuda":
            self._join_nccl()
        mine = SoloGroup() if group is None else self._group(group)
        return Comm(
            mine,
            self._link(routes.links[stage - 1], stage - 1, mine) if stage else None,
            self._link(routes.links[stage], stage, mine) if stage < len(routes.links) else None,
            self._close,
        )

    def _join_nccl(self) -> None:
        from rowspan.comm.nccl import Nccl  # torch: seconds to import

        assert self._computes.torch_dtype is not None, "cards compute with torch"
        self._nccl = Nccl(self._plan, self._shard.rank, self._open_store(), self._computes.torch_dtype)

    def _open_store(self) -> Any:
        from rowspan.comm.stores import open_store

        if self._store is None:
            cards = [shard for shard in self._plan.shards if shard.device.kind == "cuda"]
            self._store = open_store(self._meeting, len(cards))
        return self._store

    def _close(self) -> None:
        self._sockets.close()
        if self._nccl is not None:
            self._nccl.close()

    def _group(self, route: Route) -> Any:
        stage, tp_rank = self._shard.stage, self._shard.tp_rank
        match route.transport:
            case Transport.SOCKETS:
                return SocketGroup(self._sockets, self._plan, self._shard.rank)
            case Transport.SHARED | Transport.HOST:
                layout, memory = self._shared()
                tp_size = len(self._plan.stage(stage))
                spins = self._meeting.spins
                native, isa = self._computes.native, self._computes.isa
                return SharedGroup(native, isa, memory, layout.groups[stage], tp_size, tp_rank, spins)
            case Transport.NCCL:
                from rowspan.comm.nccl import NcclGroup

                return NcclGroup(self._nccl, stage, tp_rank)
        raise NotImplementedError(route.transport)

    def _link(self, route: Route, earlier: int, group: Any) -> Any:
        match route.transport:
            case Transport.SOCKETS:
                return SocketLink(self._sockets, self._plan, self._shard.rank, earlier)
            case Transport.SHARED | Transport.HOST:
                layout, memory = self._shared()
                place = self._shard.tp_rank if self._shard.stage > earlier else None
                sends = self._shard.stage == earlier and not self._shard.tp_rank
                receivers = len(self._plan.stage(earlier + 1))
                area, spins = layout.links[earlier], self._meeting.spins
                return SharedLink(self._computes.native, memory, area, receivers, place, spins, sends=sends)
            case Transport.NCCL:
                from rowspan.comm.nccl import NcclLink

                return NcclLink(self._nccl, earlier, is_leader=not self._shard.tp_rank)
            case Transport.GLOO:
                return LeaderLink(NoLink() if self._shard.tp_rank else self._gloo(earlier), group)
        raise NotImplementedError(route.transport)

    def _gloo(self, earlier: int) -> Any:
        from rowspan.comm.gloo import GlooLink  # torch: seconds to import

        assert self._meeting.between is not None, "the routes go from host to host"
        sends = self._shard.stage == earlier
        return GlooLink(self._open_store(), earlier, self._meeting.between.address, sends=sends)

    def _shared(self) -> tuple[SharedLayout, SharedMemory]:
        assert self._meeting.layout is not None, "the routes take shared memory"
        assert self._memory is not None, "the routes take shared memory"
        return self._meeting.layout, self._memory
