"""Fixtures of the oracle tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rowspan.kernels.isa import native_module
from rowspan.quant.panels import aligned

if native_module() is None:  # these are about nothing else, and cannot even be imported
    collect_ignore = [
        "test_bfloat_products.py",
        "test_cpu_kernels.py",
        "test_fused_ops.py",
        "test_gated_products.py",
        "test_native_attention.py",
        "test_repeated_steps.py",
    ]


@pytest.fixture
def poisoned_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffers of native programs are full of NaN before they run: what is left out shows."""
    from rowspan.kernels.cpu import recorded_step

    def poisoned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        array: NDArray[Any] = aligned(shape, dtype)
        array.view(np.uint8).fill(0xFF)  # NaN in every float type
        return array

    monkeypatch.setattr(recorded_step, "aligned", poisoned)
