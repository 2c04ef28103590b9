"""The machine's ceilings: there, and in a plausible order."""

from __future__ import annotations

import pytest

from rowspan.bench.job import Job
from rowspan.bench.machine import card_ceilings, roofline
from rowspan.bench.machine.roofline import Ceilings, Roofs
from rowspan.cli.bench.bench_command import _roofs
from rowspan.errors import RowspanError
from rowspan.kernels.isa import native_module
from rowspan.plan.device import parse_devices


def test_measured_ceilings_are_plausible() -> None:
    ceilings = roofline.measure(threads=1, read_bytes=1 << 26)
    if native_module() is None:
        assert ceilings is None
        pytest.skip("native kernels: none here")
    assert ceilings is not None
    assert ceilings.read_bytes_per_second > 1e8
    assert all(rate > 1e8 for rate in ceilings.flops.values())
    # Each does several times what the one before does, so that a busy machine does not turn them round.
    int8 = [ceilings.flops[unit] for unit in ("int8 avx2", "int8 avx512", "int8 amx") if unit in ceilings.flops]
    assert int8 == sorted(int8)


def test_the_best_of_one_instruction_set() -> None:
    ceilings = Ceilings("2 threads", 3e10, {"f32 avx2": 1e11, "int8 avx2": 3e11, "int8 amx": 4e12})
    assert ceilings.best_flops() == 4e12
    assert ceilings.best_flops("avx2") == 3e11


def test_a_card_s_are_measured_in_a_process_of_its_own() -> None:
    """Here of the processor, by the same way."""
    ceilings = card_ceilings.measure("cpu")
    assert ceilings.of.startswith("cpu (")
    assert ceilings.read_bytes_per_second > 1e8
    assert ceilings.best_unit == card_ceilings.UNIT
    assert ceilings.best_flops() > 1e8


def test_a_card_that_is_not_there_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RowspanError, match="ceilings of cuda:99 cannot be measured") as error:
        card_ceilings.measure("cuda:99")
    assert "cards, and no cuda:99" in error.value.why
    roofs = _roofs([job("cuda:99")])
    assert roofs.of(job("cuda:99")) is None
    assert "and no cuda:99" in capsys.readouterr().err, "it is said, and what can be measured is"


def test_a_child_that_dies_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_ceilings, "PROGRAM", "rowspan.no_such_program")
    with pytest.raises(RowspanError) as error:
        card_ceilings.ask("cpu")
    assert "no_such_program" in error.value.why


def test_cards_that_work_together_reach_more() -> None:
    zero, one = (Ceilings(name, 1e12, {card_ceilings.UNIT: 4e14}) for name in ("cuda:0 (A)", "cuda:1 (A)"))
    cpu = Ceilings("2 threads", 3e10, {"int8 amx": 1e12})
    roofs = Roofs({2: cpu}, dict(zip(parse_devices("cuda:0,cuda:1"), (zero, one), strict=True)))
    assert roofs.of(job("cpu:0,cpu:1")) == cpu
    assert roofs.of(job("cuda:1")) == one
    assert roofs.of(job("cuda:0,cuda:1")) == Ceilings("cuda:0 (A), cuda:1 (A)", 2e12, {card_ceilings.UNIT: 8e14})
    assert roofs.of(job("cuda:0,cuda:2")) is None, "one is not known"
    assert roofs.of(job("cuda:0,cpu:0")) is None
    assert Roofs().of(job("cpu:0")) is None


def job(devices: str) -> Job:
    def start() -> None:
        raise NotImplementedError

    return Job("a job", {"n_threads": 2}, start, memory_bytes=1, devices=parse_devices(devices), demand=None)  # type: ignore[arg-type]


def test_kernels_on_top_of_avx512_have_its_rates_where_they_have_none() -> None:
    flops = {"f32 avx2": 1e11, "f32 avx512": 2e11, "int8 avx512": 5e11, "int8 amx": 4e12, "bf16 amx": 2e12}
    ceilings = Ceilings("2 threads", 3e10, flops)
    assert ceilings.flops_of("int8", "amx") == 4e12
    assert ceilings.flops_of("f32", "amx") == ceilings.flops_of("f32", "avx512_bf16") == 2e11
    assert ceilings.flops_of("int8", "avx512_bf16") == 5e11
    assert ceilings.flops_of("f32", "avx2") == 1e11
