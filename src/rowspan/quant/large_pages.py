"""Allocates memory for weights in large pages: a step reads all weights, and address translation for pages of 4 KiB
takes 3 to 5 % of a step of 16 sequences (docs/performance-history.md).
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from math import prod

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
CHUNK_BYTES = 64 << 20  # size of one allocation; pages that are never used take no memory
PAGE_BYTES = 2 << 20


class LargePages:
    """Allocates arrays one after the other in chunks of memory that are kept. A page is near the thread that first
    writes to it.
    """

    def __init__(self) -> None:
        self._left = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A new array of zeros, which begins at a cache line."""
        size = prod(shape) * np.dtype(dtype).itemsize
        whole = -(-size // ALIGNMENT) * ALIGNMENT
        if whole > CHUNK_BYTES:
            return _mapped(whole)[:size].view(dtype).reshape(shape)
        if whole > self._left.nbytes:
            self._left = _mapped(CHUNK_BYTES)
        taken, self._left = self._left[:size], self._left[whole:]
        return taken.view(dtype).reshape(shape)


def begun_bytes(nbytes: int) -> int:
    """Bytes that arrays of so many bytes take beyond their own size: on average half a page for each chunk."""
    return -(-nbytes // CHUNK_BYTES) * PAGE_BYTES // 2


def _mapped(nbytes: int) -> np.ndarray:
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
