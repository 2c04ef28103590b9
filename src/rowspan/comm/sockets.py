"""Ranks of one host joined by Unix sockets: for CPU ranks, whose data is in ordinary memory.

Why not gloo: between two ranks pinned to a core each, its all-reduce of one token's hidden states (576 floats) took
3.2 ms, most of it waiting for the scheduler's tick; without pinning 0.5 ms, and 4.2 ms in one of ten. A blocked read is
woken at once.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rowspan.comm.base import Neighbours
from rowspan.comm.peer_lost import PeerLostError
from rowspan.plan.split import Plan

EAGER_BYTES = 64 << 10  # fits every socket's buffer: can be sent before anyone reads


class SocketComm:
    """See `rowspan.comm.base.Comm`."""

    def __init__(self, plan: Plan, rank: int, peers: Sequence[int]) -> None:
        """Args: peers: for each rank the file descriptor of the socket to it; anything for `rank` itself."""
        self._rank = rank
        self._near = Neighbours.of(plan, rank)
        self._sockets = {peer: socket.socket(fileno=fd) for peer, fd in enumerate(peers) if peer != rank}
        self._others = [peer for peer in self._near.members if peer != rank]

    def all_reduce(self, x: Tensor) -> Tensor:
        if not self._others:
            return x
        x = x.contiguous()
        parts = {peer: torch.empty_like(x) for peer in self._others} | {self._rank: x}
        if x.nbytes <= EAGER_BYTES:
            for peer in self._others:
                self._send(x, peer)
            for peer in self._others:
                self._receive(parts[peer], peer)
        else:
            # All pairs in one order that every rank keeps, the lower rank speaking first: nobody waits in a circle.
            for peer in self._others:
                if self._rank < peer:
                    self._send(x, peer)
                self._receive(parts[peer], peer)
                if self._rank > peer:
                    self._send(x, peer)
        total = parts[self._near.members[0]].float()  # summed in the order of ranks: the same bits everywhere
        for member in self._near.members[1:]:
            total = total + parts[member]
        return total.to(x.dtype)

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        if not self._others:
            return x
        if not self._near.leads:
            self._send(x, self._near.members[0])
            return None
        parts = [x]
        for peer, width in zip(self._near.members[1:], widths[1:], strict=True):
            parts.append(self._receive(x.new_empty(x.shape[0], width), peer))
        return torch.cat(parts, dim=1)

    def send_stage(self, x: Tensor) -> None:
        if self._near.leads:
            assert self._near.next is not None, "the last stage has none after it"
            self._send(x, self._near.next)

    def receive_stage(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        x = torch.empty(shape, dtype=dtype)
        if self._near.leads:
            assert self._near.previous is not None, "the first stage has none before it"
            self._receive(x, self._near.previous)
            for peer in self._others:
                self._send(x, peer)
        else:
            self._receive(x, self._near.members[0])
        return x

    def close(self) -> None:
        for link in self._sockets.values():
            link.close()

    def _send(self, x: Tensor, peer: int) -> None:
        try:
            self._sockets[peer].sendall(_bytes_of(x.contiguous()))
        except OSError as error:
            raise PeerLostError from error

    def _receive(self, x: Tensor, peer: int) -> Tensor:
        view = _bytes_of(x)
        while view:
            try:
                received = self._sockets[peer].recv_into(view, flags=socket.MSG_WAITALL)
            except OSError as error:
                raise PeerLostError from error
            if not received:
                raise PeerLostError
            view = view[received:]
        return x


def _bytes_of(x: Tensor) -> memoryview:
    """The memory of a contiguous tensor, whatever its dtype."""
    array: Any = x.view(-1).view(torch.uint8).numpy()
    return memoryview(array)
