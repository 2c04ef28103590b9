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


def test_kernels_on_top_of_avx512_have_its_rates_where_they_have_none() -> None:
    flops = {"f32 avx2": 1e11, "f32 avx512": 2e11, "int8 avx512": 5e11, "int8 amx": 4e12, "bf16 amx": 2e12}
    ceilings = Ceilings(2, 3e10, flops)
    assert ceilings.flops_of("int8", "amx") == 4e12
    assert ceilings.flops_of("f32", "amx") == ceilings.flops_of("f32", "avx512_bf16") == 2e11
    assert ceilings.flops_of("int8", "avx512_bf16") == 5e11
    assert ceilings.flops_of("f32", "avx2") == 1e11
