"""Memory for weights."""

from __future__ import annotations

import numpy as np
import pytest

from rowspan.quant.large_pages import ALIGNMENT, CHUNK_BYTES, LargePages

SHAPES = [(3, 5), (1,), (7, 0, 2), (CHUNK_BYTES // 2 + 1,), (2,), (CHUNK_BYTES // 2 + 1,), (CHUNK_BYTES + 1,), (9, 11)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.int8])
def test_arrays_are_aligned_and_apart(dtype: type[np.generic]) -> None:
    pages = LargePages()
    arrays = [pages.array(shape, dtype) for shape in SHAPES]
    for number, array in enumerate(arrays):
        array.reshape(-1)[:7] = number + 1
        array.reshape(-1)[-7:] = number + 1
    for number, (shape, array) in enumerate(zip(SHAPES, arrays, strict=True)):
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.size == 0 or array.ctypes.data % ALIGNMENT == 0
        ends = np.concatenate((array.reshape(-1)[:7], array.reshape(-1)[-7:]))
        assert (ends == number + 1).all()


def test_small_arrays_are_neighbours() -> None:
    pages = LargePages()
    first, second = pages.array((1000,), np.uint8), pages.array((1000,), np.uint8)
    assert second.ctypes.data - first.ctypes.data == 1024
