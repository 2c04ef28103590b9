"""Joins ranks of one host by Unix sockets, for CPU ranks without a native module to share memory with.

Why not gloo: between two ranks pinned to a core each, its all-reduce of one token's hidden states (576 floats) took 3.2
ms, most of it waiting for the scheduler's tick; without pinning 0.5 ms, and 4.2 ms in one of ten. A blocked read is
woken at once.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.peer_lost import PeerLostError
from rowspan.plan.shard import Plan

EAGER_BYTES = 64 << 10  # fits every socket's buffer: can be sent before anyone reads


class Sockets:
    """One rank's sockets to all others, which carry contiguous float32 arrays."""

    def __init__(self, rank: int, peers: Sequence[int]) -> None:
        """Adopt sockets. Args: peers: for each rank the file descriptor of the socket to it; -1 for `rank` itself and
        for other hosts' ranks.
        """
        self._sockets = {peer: socket.socket(fileno=fd) for peer, fd in enumerate(peers) if fd >= 0}

    def send(self, x: NDArray[np.float32], peer: int) -> None:
        """Send an array to a rank. Raises PeerLostError."""
        try:
            self._sockets[peer].sendall(x.data)
        except OSError as error:
            raise PeerLostError from error

    def receive(self, shape: tuple[int, ...], peer: int) -> NDArray[np.float32]:
        """Receive an array from a rank. Raises PeerLostError."""
        x = np.empty(shape, dtype=np.float32)
        missing = x.reshape(-1).view(np.uint8).data
        while missing:
            try:
                received = self._sockets[peer].recv_into(missing, flags=socket.MSG_WAITALL)
            except OSError as error:
                raise PeerLostError from error
            if not received:
                raise PeerLostError
            missing = missing[received:]
        return x

    def close(self) -> None:
        for link in self._sockets.values():
            link.close()


class SocketGroup:
    """A `rowspan.comm.base.TPGroup` over sockets."""

    def __init__(self, sockets: Sockets, plan: Plan, rank: int) -> None:
        self._members = [shard.rank for shard in plan.stage(plan.shards[rank].stage)]
        self._others = [peer for peer in self._members if peer != rank]
        self._sockets = sockets
        self._rank = rank
        self.tp_size = len(self._members)
        self.is_leader = rank == self._members[0]

    def all_reduce(self, x: NDArray[np.float32], contributes: bool) -> NDArray[np.float32]:
        if not contributes:
            x[...] = 0.0
        parts = {self._rank: x}
        if x.nbytes <= EAGER_BYTES:
            for peer in self._others:
                self._sockets.send(x, peer)
            for peer in self._others:
                parts[peer] = self._sockets.receive(x.shape, peer)
        else:
            # All ranks go through all pairs in the same order, the lower rank sending first: nobody waits in a circle.
            for peer in self._others:
                if self._rank < peer:
                    self._sockets.send(x, peer)
                parts[peer] = self._sockets.receive(x.shape, peer)
                if self._rank > peer:
                    self._sockets.send(x, peer)
        # Add in the order of ranks, so that all ranks get the same bits. The last sum is written to x, which is
        # included by then.
        total, *between, last = (parts[member] for member in self._members)
        for part in between:
            total += part
        return np.add(total, last, out=x)

    def gather_columns(self, x: NDArray[np.float32], widths: Sequence[int]) -> NDArray[np.float32] | None:
        if not self.is_leader:
            self._sockets.send(x, self._members[0])
            return None
        parts = [x]
        for peer, width in zip(self._members[1:], widths[1:], strict=True):
            parts.append(self._sockets.receive((len(x), width), peer))
        return np.concatenate(parts, axis=1)


class SocketLink:
    """A `rowspan.comm.base.StageLink` over sockets."""

    def __init__(self, sockets: Sockets, plan: Plan, rank: int, earlier: int) -> None:
        """Join two stages. Args: earlier: number of the stage that sends."""
        self._sockets = sockets
        self._sender = plan.stage(earlier)[0].rank
        self._receivers = [shard.rank for shard in plan.stage(earlier + 1)]
        self._rank = rank

    def send(self, x: NDArray[np.float32]) -> None:
        if self._rank == self._sender:
            for peer in self._receivers:
                self._sockets.send(x, peer)

    def receive(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self._sockets.receive(shape, self._sender)
