"""An engine whose fastest transport lies runs on the next one, says so, and gives the same answers."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel
from kit.leftovers import leftovers

from rowspan.comm.probing import supervise
from rowspan.config import EngineConfig
from rowspan.engine import core
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.engine.engine import Engine
from rowspan.engine.group import WorkerGroup
from rowspan.kernels.isa import native_module
from rowspan.plan.device import parse_devices
from rowspan.plan.routes import Transport
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.request import SamplingParams

FAULTY = Path(__file__).parents[1] / "kit" / "faulty_probe.py"
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
pytestmark = pytest.mark.skipif(native_module() is None, reason="native kernels: none here")


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWSPAN_PROBES", str(tmp_path / "probes.json"))


def blueprint_of(tmp_path: Path, mode: SplitMode) -> Blueprint:
    path = TinyModel().write(tmp_path / "tiny.gguf")
    return make_blueprint(EngineConfig(path, parse_devices("cpu:0,cpu:1"), mode, context_size=64))


def answer(blueprint: Blueprint) -> list[int]:
    with Engine(blueprint) as engine:
        return [token.token for piece in engine.generate([1, 2, 3], GREEDY) for token in piece.tokens]


@pytest.mark.parametrize("mode", [SplitMode.ROW, SplitMode.LAYER])
def test_the_engine_runs_on_the_next_path(
    mode: SplitMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = answer(blueprint_of(tmp_path, SplitMode.NONE))
    used: list[tuple[Transport, ...]] = []

    class Spied(WorkerGroup):
        def __init__(self, setups, *rest) -> None:  # type: ignore[no-untyped-def]
            used.extend(setup.routes.transports for setup in setups)
            super().__init__(setups, *rest)

    monkeypatch.setattr(core, "WorkerGroup", Spied)
    monkeypatch.setattr(supervise, "COMMAND", (sys.executable, str(FAULTY), "shm", "flip"))
    with leftovers() as left:
        assert answer(blueprint_of(tmp_path, mode)) == wanted
    assert not left()
    assert used == [(Transport.SOCKETS,)] * 2
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("shm is switched off, ranks use sockets: ")


def test_a_second_start_does_not_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(blueprint_of(tmp_path, SplitMode.ROW))
    assert blueprint_of(tmp_path, SplitMode.ROW).routes.probed
    monkeypatch.setattr(supervise, "COMMAND", ("/nowhere",))
    assert answer(blueprint_of(tmp_path, SplitMode.ROW))


def test_one_rank_needs_no_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "COMMAND", ("/nowhere",))
    assert answer(blueprint_of(tmp_path, SplitMode.NONE))
    assert not (tmp_path / "probes.json").exists()
