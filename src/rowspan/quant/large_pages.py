"""Memory for weights: in large pages, as a step reads all of it, and looking up every 4 KiB takes 3 to 5 % of one of 16
sequences (docs/performance.md)."""

from __future__ import annotations

import mmap
from contextlib import suppress
from math import prod

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
CHUNK_BYTES = 64 << 20  # asked of the system at once: what of it is never used takes no memory
PAGE_BYTES = 2 << 20


class LargePages:
    """Arrays that stay, one after the other in chunks of memory. A page is near the thread that writes to it first."""

    def __init__(self) -> None:
        self._left = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A new one, of zeros, that begins at a cache line."""
        size = prod(shape) * np.dtype(dtype).itemsize
        whole = -(-size // ALIGNMENT) * ALIGNMENT
        if whole > CHUNK_BYTES:
            return _mapped(whole)[:size].view(dtype).reshape(shape)
        if whole > self._left.nbytes:
            self._left = _mapped(CHUNK_BYTES)
        taken, self._left = self._left[:size], self._left[whole:]
        return taken.view(dtype).reshape(shape)


def begun_bytes(nbytes: int) -> int:
    """What arrays of so many bytes take beyond these: of each chunk's last page half is used, as chance has it."""
    return -(-nbytes // CHUNK_BYTES) * PAGE_BYTES // 2


def _mapped(nbytes: int) -> np.ndarray:
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
