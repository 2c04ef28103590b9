"""A link between only the leaders of two stages, as used between hosts."""

from __future__ import annotations

from typing import Generic

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Array, StageLink, TPGroup


class LeaderLink(Generic[Array]):
    """A `rowspan.comm.base.StageLink` through which hidden states cross the slow link once. The later stage's leader
    shares what it receives by an all-reduce to which its group's other ranks contribute nothing, which is exact.
    """

    def __init__(self, link: StageLink[Array], group: TPGroup[Array]) -> None:
        """Combine a link and a group. Args: link: `NoLink` on all ranks but the leader; group: this rank's."""
        self.link = link
        self.group = group

    def send(self, x: Array) -> None:
        if self.group.is_leader:
            self.link.send(x)

    def receive(self, shape: tuple[int, ...]) -> Array:
        return self.group.all_reduce(self.link.receive(shape), self.group.is_leader)


class NoLink:
    """Stands for the link on ranks that have none because their stage's leader has it."""

    def send(self, x: NDArray[np.float32]) -> None:
        pass

    def receive(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array with arbitrary contents, of which only the shape is used."""
        return np.empty(shape, np.float32)
