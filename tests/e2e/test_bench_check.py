"""`rowspan bench --check`: splits against a single device."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.bench.engines.split_check import Checker, Divergence, compare
from rowspan.comm.probing import supervise
from rowspan.config import EngineConfig
from rowspan.kernels.isa import native_module
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import SampledToken


@pytest.mark.parametrize("mode", ["layer", "row"])
def test_a_split_answers_as_a_single_device(tmp_path: Path, mode: str) -> None:
    """The configuration is one of a benchmark, whose cache is as small as its work."""
    path = TinyModel("llama", context_length=512, n_layers=2).write(tmp_path / "tiny.gguf")
    devices = parse_devices("cpu:0,cpu:1")
    config = EngineConfig(path, devices=devices, split_mode=SplitMode(mode), context_size=64, cache_tokens=64)
    found = Checker().check(config)
    assert (found.tokens, found.equal) == (64, 64)
    assert found.logprob < 1e-4


@pytest.mark.skipif(native_module() is None, reason="native kernels: none here")
def test_a_transport_that_lies_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The check loads a split as everything else does: over what has been seen to work."""
    faulty = Path(__file__).parents[1] / "kit" / "faulty_probe.py"
    monkeypatch.setenv("ROWSPAN_PROBES", str(tmp_path / "probes.json"))
    monkeypatch.setattr(supervise, "COMMAND", (sys.executable, str(faulty), "shm", "flip"))
    path = TinyModel("llama", context_length=512, n_layers=2).write(tmp_path / "tiny.gguf")
    config = EngineConfig(path, devices=parse_devices("cpu:0,cpu:1"), split_mode=SplitMode.ROW, context_size=64)
    with caplog.at_level(logging.WARNING):
        assert Checker().check(config).equal == 64
    assert "shm is switched off, ranks use sockets" in caplog.text


def test_what_differs_is_counted_from_the_first_token_on() -> None:
    def said(*tokens: int, sure: float = -1.0) -> list[SampledToken]:
        return [SampledToken(token, token, sure, ((token, sure), (9, -3.0))) for token in tokens]

    assert compare(said(1, 2, 3), said(1, 2, 3), said(1, 2, 3)) == Divergence(3, 3, 0.0)
    assert compare(said(1, 2, 3), said(1, 7, 3), said(1, 2, 3, sure=-1.5)) == Divergence(3, 1, 0.5)
    assert compare(said(1, 9), said(1, 9), said(1, 2)).logprob == pytest.approx(1.0)
    assert compare(said(1, 2), said(1, 2), said(1, 3)).logprob == math.inf
