"""Uploads weights from the mapped file to a card through pinned buffers: while one is copied to the card, the next is
filled.

Only pinned memory is copied by the card itself, at the bus's speed and without the processor. The mapped file cannot be
pinned, so several threads read it into two buffers in turn: one thread alone copies 5 to 10 GB/s.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

BUFFER_BYTES = 64 << 20  # large enough that waiting for a copy (some 20 µs) is nothing beside it
BUFFERS = 2
READERS = 4


@dataclass
class _Buffer:
    data: Tensor  # uint8
    copied: torch.cuda.Event | None = None  # the card has taken what was in it last


class Uploader:
    """Copies raw bytes into a device's memory. Buffers and threads exist from the first copy until `finish`."""

    def __init__(self, device: torch.device, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._device = device
        self._buffer_bytes = buffer_bytes
        self._buffers: list[_Buffer] = []
        self._next = 0
        self._readers: ThreadPoolExecutor | None = None

    def upload(self, raw: NDArray[np.uint8]) -> Tensor:
        """Copy a matrix of bytes, whose rows may lie apart, to the device: uint8 of the same shape. The card may still
        be copying when this returns; work that is given to it afterwards finds the data there.
        """
        target = torch.empty(raw.shape, dtype=torch.uint8, device=self._device)
        self.fill(target, raw)
        return target

    def upload_parts(self, parts: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Copy the parts of a stored matrix, each with its own shape and type."""
        return {
            name: self.upload(part)
            if part.dtype == np.uint8 and part.ndim == 2
            else torch.from_numpy(np.ascontiguousarray(part)).to(self._device)
            for name, part in parts.items()
        }

    def fill(self, target: Tensor, raw: NDArray[np.uint8]) -> None:
        """Like `upload`, but into existing memory."""
        width = raw[:1].nbytes
        if not raw.size:
            return
        rows = max(1, self._buffer_bytes // width)
        for first in range(0, len(raw), rows):
            part = raw[first : first + rows]
            buffer = self._free_buffer(part.nbytes)
            staged = buffer.data[: part.nbytes].view(part.shape)
            self._read(part, staged.numpy())
            target[first : first + rows].copy_(staged, non_blocking=True)
            if self._device.type == "cuda":
                buffer.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                buffer.copied.record()

    def finish(self) -> None:
        """Wait until everything has been copied, and release buffers and threads."""
        for buffer in self._buffers:
            _wait(buffer)
        self._buffers = []
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None

    def _free_buffer(self, nbytes: int) -> _Buffer:
        if len(self._buffers) < BUFFERS:
            self._buffers.append(_Buffer(self._allocate(max(nbytes, self._buffer_bytes))))
            return self._buffers[-1]
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % BUFFERS
        _wait(buffer)
        if buffer.data.numel() < nbytes:
            buffer.data = self._allocate(nbytes)
        return buffer

    def _allocate(self, nbytes: int) -> Tensor:
        if self._device.type == "cpu":
            return torch.empty(nbytes, dtype=torch.uint8)
        return pinned(nbytes)

    def _read(self, part: NDArray[np.uint8], into: NDArray[np.uint8]) -> None:
        if self._readers is None:
            self._readers = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1), thread_name_prefix="rowspan-read")
        cuts = np.linspace(0, len(part), READERS + 1).astype(int)
        # NumPy lets go of Python's lock while it copies.
        list(self._readers.map(lambda cut: np.copyto(into[slice(*cut)], part[slice(*cut)]), pairwise(cuts)))


def pinned(nbytes: int) -> Tensor:
    """Pinned memory of the host, which cards copy from by themselves; pageable memory if the system pins no more."""
    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        log.warning(
            "%d MiB of memory could not be pinned (%s): copies to the card are slower. Raise the limit of locked "
            "memory: `ulimit -l unlimited`, memlock in /etc/security/limits.conf, --ulimit memlock=-1 for containers.",
            nbytes >> 20,
            str(error).splitlines()[0],
        )
        return torch.empty(nbytes, dtype=torch.uint8)


def _wait(buffer: _Buffer) -> None:
    if buffer.copied is not None:
        buffer.copied.synchronize()
        buffer.copied = None
