"""Fixtures of the oracle tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rowspan.kernels.cpu import trace
from rowspan.quant.panels import aligned


@pytest.fixture
def poisoned_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffers of native programs are full of NaN before they run: what is left out shows."""

    def poisoned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        array: NDArray[Any] = aligned(shape, dtype)
        array.view(np.uint8).fill(0xFF)  # NaN in every float type
        return array

    monkeypatch.setattr(trace, "aligned", poisoned)
