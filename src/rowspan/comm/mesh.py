"""Sockets between every two ranks of one host."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from itertools import combinations


def socket_mesh(n_ranks: int, owner: ExitStack) -> list[tuple[int, ...]]:
    """A socket between every two ranks: for each rank the descriptors to all (-1 to itself). The owner closes them,
    once the ranks have inherited theirs, so that a rank's end closes when the rank ends."""
    peers = [[-1] * n_ranks for _ in range(n_ranks)]
    for a, b in combinations(range(n_ranks), 2):
        ends = socket.socketpair()
        for end in ends:
            owner.enter_context(end)
        peers[a][b], peers[b][a] = (end.fileno() for end in ends)
    return [tuple(row) for row in peers]
