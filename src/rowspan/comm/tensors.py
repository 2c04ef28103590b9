"""Carries torch's tensors over transports made for NumPy arrays. For cards this is the way through the host's memory
(`host`), which needs no peer-to-peer access: the staging buffer is pinned, so that copies run at the bus's speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rowspan.comm.base import Comm, StageLink, TPGroup
from rowspan.comm.leader_link import LeaderLink
from rowspan.comm.nccl import NcclGroup, NcclLink


def comm_of_tensors(comm: Comm[Any], device: torch.device, dtype: torch.dtype) -> Comm[Tensor]:
    """The same connections for tensors on a device. Tensors are converted to float32 to be carried and summed; NCCL's
    connections carry tensors as they are.

    Args:
        dtype: type of the hidden states.
    """
    staging = _Staging(device)

    alone = comm.group.tp_size == 1 or isinstance(comm.group, NcclGroup)
    group: TPGroup[Tensor] = comm.group if alone else TensorGroup(comm.group, staging)

    def link(one: StageLink[Any] | None) -> StageLink[Tensor] | None:
        if one is None or isinstance(one, NcclLink):
            return one
        if isinstance(one, LeaderLink):
            return LeaderLink(TensorLink(one.link, staging, dtype), group)
        return TensorLink(one, staging, dtype)

    return Comm(group, link(comm.before), link(comm.after), comm.close)


def detached(comm: Comm[Tensor], device: torch.device, dtype: torch.dtype) -> Comm[Tensor]:
    """Connections of the same shapes that carry nothing, for a rank that profiles a step by itself."""
    link = _SilentLink(device, dtype)
    group = _DetachedGroup(comm.group.tp_size, comm.group.is_leader)
    return Comm(group, comm.before and link, comm.after and link)


@dataclass(frozen=True)
class _DetachedGroup:
    tp_size: int
    is_leader: bool

    def all_reduce(self, x: Tensor, contributes: bool) -> Tensor:
        return x

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        return x.new_zeros(len(x), sum(widths)) if self.is_leader else None


@dataclass(frozen=True)
class _SilentLink:
    device: torch.device
    dtype: torch.dtype

    def send(self, x: Tensor) -> None:
        pass

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)


class TensorGroup:
    """A `rowspan.comm.base.TPGroup` for tensors over one for arrays."""

    def __init__(self, group: TPGroup[NDArray[np.float32]], staging: _Staging) -> None:
        self._group = group
        self._staging = staging
        self.tp_size = group.tp_size
        self.is_leader = group.is_leader

    def all_reduce(self, x: Tensor, contributes: bool) -> Tensor:
        return self._staging.tensor(self._group.all_reduce(self._staging.floats(x), contributes), x.dtype)

    def gather_columns(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        joined = self._group.gather_columns(self._staging.floats(x), widths)
        return None if joined is None else self._staging.tensor(joined, x.dtype)


class TensorLink:
    """A `rowspan.comm.base.StageLink` for tensors over one for arrays."""

    def __init__(self, link: StageLink[NDArray[np.float32]], staging: _Staging, dtype: torch.dtype) -> None:
        self._link = link
        self._staging = staging
        self._dtype = dtype

    def send(self, x: Tensor) -> None:
        self._link.send(self._staging.floats(x))

    def receive(self, shape: tuple[int, ...]) -> Tensor:
        return self._staging.tensor(self._link.receive(shape), self._dtype)


class _Staging:
    """Copies between a device and arrays in the host's memory. Types are converted on the device: a copy that also
    converts goes through memory that is not pinned.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._outward, self._inward = _Pinned(), _Pinned()

    def floats(self, x: Tensor) -> NDArray[np.float32]:
        """A tensor as a float32 array: in the tensor's own memory if possible, else valid until the next call."""
        x = x.float()
        x = x.contiguous() if self._device.type == "cpu" else self._outward.copy_of(x)
        array: NDArray[np.float32] = x.numpy()
        return array

    def tensor(self, array: NDArray[np.float32], dtype: torch.dtype) -> Tensor:
        x = torch.from_numpy(array)
        if self._device.type != "cpu" and not x.is_pinned():  # a result of all_reduce is pinned
            x = self._inward.copy_of(x)
        return x.to(self._device).to(dtype)


class _Pinned:
    """Pinned memory of the host, as much as the largest message takes."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def copy_of(self, x: Tensor) -> Tensor:
        """A pinned copy of a float32 tensor, valid until the next call."""
        if self._memory.numel() < x.numel():
            self._memory = torch.empty(x.numel(), pin_memory=True)
        return self._memory[: x.numel()].view(x.shape).copy_(x)
