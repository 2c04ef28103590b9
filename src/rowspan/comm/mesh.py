"""Makes sockets between every two ranks of one host."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import combinations


def socket_mesh(ranks: Sequence[int], n_ranks: int, owner: ExitStack) -> list[tuple[int, ...]]:
    """Make a socket between every two of these ranks. Returns, for each of the plan's ranks, the descriptors to all
    ranks (-1 for itself and for other hosts' ranks). The owner closes them once the ranks have inherited theirs, so
    that a rank's end closes when the rank ends.
    """
    peers = [[-1] * n_ranks for _ in range(n_ranks)]
    for a, b in combinations(ranks, 2):
        ends = socket.socketpair()
        for end in ends:
            owner.enter_context(end)
        peers[a][b], peers[b][a] = (end.fileno() for end in ends)
    return [tuple(row) for row in peers]
