"""Ranks of one host joined by Unix sockets: for CPU ranks, whose data is in ordinary memory.

Why not gloo: between two ranks pinned to a core each, its all-reduce of one token's hidden states (576 floats) took
3.2 ms, most of it waiting for the scheduler's tick; without pinning 0.5 ms, and 4.2 ms in one of ten. A blocked read is
woken at once.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Neighbours
from rowspan.comm.peer_lost import PeerLostError
from rowspan.plan.split import Plan

EAGER_BYTES = 64 << 10  # fits every socket's buffer: can be sent before anyone reads


class SocketComm:
    """See `rowspan.comm.base.Comm`; of contiguous float32 arrays."""

    def __init__(self, plan: Plan, rank: int, peers: Sequence[int]) -> None:
        """Args: peers: for each rank the file descriptor of the socket to it; anything for `rank` itself."""
        self._rank = rank
        self._near = Neighbours.of(plan, rank)
        self._sockets = {peer: socket.socket(fileno=fd) for peer, fd in enumerate(peers) if peer != rank}
        self._others = [peer for peer in self._near.members if peer != rank]

    @property
    def rows(self) -> int:
        return len(self._near.members)

    @property
    def leads(self) -> bool:
        return self._near.leads

    def all_reduce(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._others:
            return x
        parts = {self._rank: x}
        if x.nbytes <= EAGER_BYTES:
            for peer in self._others:
                self._send(x, peer)
            for peer in self._others:
                parts[peer] = self._receive(x.shape, peer)
        else:
            # All pairs in one order that every rank keeps, the lower rank speaking first: nobody waits in a circle.
            for peer in self._others:
                if self._rank < peer:
                    self._send(x, peer)
                parts[peer] = self._receive(x.shape, peer)
                if self._rank > peer:
                    self._send(x, peer)
        # Summed in the order of ranks: the same bits everywhere. The last sum goes to x, whose part is in it by then.
        total, *between, last = (parts[member] for member in self._near.members)
        for part in between:
            total += part
        return np.add(total, last, out=x)

    def gather_columns(self, x: NDArray[np.float32], widths: Sequence[int]) -> NDArray[np.float32] | None:
        if not self._others:
            return x
        if not self._near.leads:
            self._send(x, self._near.members[0])
            return None
        parts = [x]
        for peer, width in zip(self._near.members[1:], widths[1:], strict=True):
            parts.append(self._receive((len(x), width), peer))
        return np.concatenate(parts, axis=1)

    def send_stage(self, x: NDArray[np.float32]) -> None:
        if self._near.leads:
            assert self._near.next is not None, "the last stage has none after it"
            self._send(x, self._near.next)

    def receive_stage(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if not self._near.leads:
            return self._receive(shape, self._near.members[0])
        assert self._near.previous is not None, "the first stage has none before it"
        x = self._receive(shape, self._near.previous)
        for peer in self._others:
            self._send(x, peer)
        return x

    def close(self) -> None:
        for link in self._sockets.values():
            link.close()

    def _send(self, x: NDArray[np.float32], peer: int) -> None:
        try:
            self._sockets[peer].sendall(x.data)
        except OSError as error:
            raise PeerLostError from error

    def _receive(self, shape: tuple[int, ...], peer: int) -> NDArray[np.float32]:
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
