"""Joins ranks of several hosts by gloo, through torch.distributed: CPU ranks, and cards if not all ranks are cards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store

from rowspan.comm.peer_lost import PeerLostError
from rowspan.comm.stores import JOIN_TIMEOUT, joining

STEP_TIMEOUT = timedelta(hours=1)
"""The longest time that a rank waits within a step. The engine makes sure that no rank waits in vain; this bounds the
wait if the engine itself is stuck.
"""
SENDER, RECEIVER = 0, 1


class GlooLink:
    """A `rowspan.comm.base.StageLink` from one rank to one other, for contiguous float32 arrays."""

    def __init__(self, store: Store, earlier: int, address: str, *, sends: bool) -> None:
        """Meet the other rank.

        Args:
            earlier: number of the stage that sends.
            address: this host's address, as the other rank can reach it.
            sends: whether this rank belongs to the stage that sends.

        Raises:
            EngineError: the ranks do not find each other.
        """
        gloo: Any = ProcessGroupGloo  # torch's type stubs know half of it
        options = gloo._Options()
        # Name the address, since gloo would choose whatever the host's own name stands for: often 127.0.1.1.
        options._devices = [gloo.create_device(hostname=address)]
        options._threads = 1
        options._timeout = JOIN_TIMEOUT
        with joining(f"the link behind stage {earlier}"):
            self._pair = gloo(PrefixStore(f"stage {earlier}", store), SENDER if sends else RECEIVER, 2, options)
        self._pair._set_default_timeout(STEP_TIMEOUT)

    def send(self, x: NDArray[np.float32]) -> None:
        """Send to the other rank. Raises PeerLostError."""
        if x.size:
            with _losing_peer():
                self._pair.send([torch.from_numpy(x)], RECEIVER, 0).wait()

    def receive(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Receive from the other rank. Raises PeerLostError."""
        x = np.empty(shape, np.float32)
        if x.size:
            with _losing_peer():
                self._pair.recv([torch.from_numpy(x)], SENDER, 0).wait()
        return x


@contextmanager
def _losing_peer() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that gloo ever raises here
        raise PeerLostError from error
