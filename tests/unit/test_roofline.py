"""The machine's ceilings: there, and in a plausible order."""

from __future__ import annotations

import pytest

from rowspan.bench import roofline
from rowspan.bench.roofline import Ceilings
from rowspan.kernels.isa import native_module


def test_measured_ceilings_are_plausible() -> None:
    ceilings = roofline.measure(threads=1, read_bytes=1 << 26)
    if native_module() is None:
        assert ceilings is None
        pytest.skip("no native kernels here")
    assert ceilings is not None
    assert ceilings.read_bytes_per_second > 1e8
    assert all(rate > 1e8 for rate in ceilings.flops.values())
    # Each does several times what the one before does, so that a busy machine does not turn them round.
    int8 = [ceilings.flops[unit] for unit in ("int8 avx2", "int8 avx512", "int8 amx") if unit in ceilings.flops]
    assert int8 == sorted(int8)


def test_the_best_of_one_instruction_set() -> None:
    ceilings = Ceilings(2, 3e10, {"f32 avx2": 1e11, "int8 avx2": 3e11, "int8 amx": 4e12})
    assert ceilings.best_flops() == 4e12
    assert ceilings.best_flops("avx2") == 3e11
