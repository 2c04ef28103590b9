"""Sockets for CPU ranks that compute with torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rowspan.comm.sockets import SocketComm


class TensorSockets:
    """See `rowspan.comm.base.Comm`; of tensors in the CPU's memory. On their way, and summed, they are float32."""

    def __init__(self, sockets: SocketComm, dtype: torch.dtype) -> None:
        """Args: dtype: of the hidden states."""
        self._sockets = sockets
        self._dtype = dtype

    @property
    def rows(self) -> int:
        return self._sockets.rows

    @property
    def leads(self) -> bool:
        return self._sockets.leads

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self._sockets.all_reduce(_floats(x))).to(x.dtype)

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        joined = self._sockets.gather_columns(_floats(x), widths)
        return None if joined is None else torch.from_numpy(joined).to(x.dtype)

    def send_stage(self, x: Tensor) -> None:
        self._sockets.send_stage(_floats(x))

    def receive_stage(self, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(self._sockets.receive_stage(shape)).to(self._dtype)

    def close(self) -> None:
        self._sockets.close()


def _floats(x: Tensor) -> NDArray[np.float32]:
    """The tensor as float32, in its own memory where that is what it is."""
    array: NDArray[np.float32] = x.float().contiguous().numpy()
    return array
