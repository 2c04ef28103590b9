"""What workers were predicted to take, and what they take: a real model on CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowspan.bench.engines.native_runner import NativeRunner
from rowspan.bench.grid import Workload
from rowspan.cli.memory_check import memory_line, predicted_memory
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import make_blueprint
from rowspan.kernels.isa import TORCH, available_isas
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode

CLOSE = 0.03

pytestmark = pytest.mark.skipif(available_isas() == [TORCH], reason="native kernels: none here")


@pytest.mark.parametrize(
    ("devices", "mode"), [("cpu:0", SplitMode.NONE), ("cpu:0,cpu:1", SplitMode.ROW), ("cpu:0,cpu:1", SplitMode.LAYER)]
)
def test_workers_take_what_was_predicted(smollm2_path: Path, devices: str, mode: SplitMode) -> None:
    config = EngineConfig(smollm2_path, parse_devices(devices), mode, context_size=1024, cache_tokens=1024)
    blueprint = make_blueprint(config)
    predicted = predicted_memory(blueprint)
    assert predicted is not None
    with NativeRunner(blueprint) as runner:
        assert runner.peak_memory() == pytest.approx(predicted.loaded, rel=CLOSE)
        line = memory_line(blueprint)
        assert line is not None
        assert "predicted" in line
        workload = Workload(1000, 8, 0)
        runner.prepare(workload, warm_up=False)
        runner.measure(workload)
        # Random tokens need not meet the whole embedding, nor a last batch the largest buffers: up to this, and near.
        assert 0.92 * predicted.full <= runner.peak_memory() <= (1 + CLOSE) * predicted.full
