"""A link between the leaders of two stages only, as there is from host to host."""

from __future__ import annotations

from typing import Generic

import numpy as np
from numpy.typing import NDArray

from rowspan.comm.base import Array, StageLink, TPGroup


class LeaderLink(Generic[Array]):
    """See `rowspan.comm.base.StageLink`. What the leader of the later stage receives, it shares with its group by a
    sum with the others' nothing, which is exact: hidden states cross the slower link once."""

    def __init__(self, link: StageLink[Array], group: TPGroup[Array]) -> None:
        """Args: link: `NoLink` on all ranks but the leader; group: this rank's."""
        self.link = link
        self.group = group

    def send(self, x: Array) -> None:
        if self.group.is_leader:
            self.link.send(x)

    def receive(self, shape: tuple[int, ...]) -> Array:
        return self.group.all_reduce(self.link.receive(shape), self.group.is_leader)


class NoLink:
    """Where another rank of the stage has the link."""

    def send(self, x: NDArray[np.float32]) -> None:
        pass

    def receive(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Whatever is there: only its shape is looked at."""
        return np.empty(shape, np.float32)
