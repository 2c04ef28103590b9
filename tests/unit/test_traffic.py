"""Bytes that a plan foretells are those that ranks hand over in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.gguf_builder import TinyModel
from kit.thread_workers import on_all_workers, over_sockets

from rowspan.comm.base import Comm
from rowspan.comm.connect import connect
from rowspan.config import EngineConfig
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.plan.device import parse_devices
from rowspan.plan.shard import Plan
from rowspan.plan.split_mode import SplitMode
from rowspan.plan.traffic import traffic
from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams
from rowspan.worker import worker as worker_module
from rowspan.worker.worker import Worker

MODEL = TinyModel(n_layers=3, hidden_size=96, n_heads=9, n_kv_heads=3, head_dim=32, ffn_size=96, vocab_size=300)


class Counting:
    """A group or a link that counts what this rank gives to it, in bytes."""

    def __init__(self, carrier: Any, sends: bool) -> None:
        self._carrier = carrier
        self._sends = sends
        self.tp_size = getattr(carrier, "tp_size", 0)
        self.is_leader = getattr(carrier, "is_leader", False)
        self.given = 0

    def all_reduce(self, x: Any, contributes: bool) -> Any:
        self.given += x.nbytes * contributes
        return self._carrier.all_reduce(x, contributes)

    def gather_columns(self, x: Any, widths: Sequence[int]) -> Any:
        self.given += x.nbytes * (not self.is_leader)
        return self._carrier.gather_columns(x, widths)

    def send(self, x: Any) -> None:
        self.given += x.nbytes * self._sends
        self._carrier.send(x)

    def receive(self, shape: tuple[int, ...]) -> Any:
        return self._carrier.receive(shape)


def counted(blueprint: Blueprint, steps: Sequence[StepPlan], monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Bytes that each rank gave in each step. Ranks are threads of this process, joined by sockets."""
    counters: dict[int, list[Counting]] = {}

    def connect_counting(plan: Plan, rank: int, *rest: Any) -> Comm[Any]:
        comm = connect(plan, rank, *rest)
        is_leader = not plan.shards[rank].tp_rank
        group = Counting(comm.group, is_leader)
        after = None if comm.after is None else Counting(comm.after, is_leader)
        counters[rank] = [group, *([after] if after else [])]
        return replace(comm, group=group if group.tp_size > 1 else comm.group, after=after)

    monkeypatch.setattr(worker_module, "connect", connect_counting)

    def run(worker: Worker, rank: int) -> list[int]:
        given = []
        for step in steps:
            worker.step(step)
            given.append(sum(counter.given for counter in counters[rank]))
        return [now - before for now, before in zip(given, [0, *given], strict=False)]

    return on_all_workers(blueprint, run)


@pytest.mark.parametrize("isa", [None, "torch"])
@pytest.mark.parametrize(
    ("devices", "mode", "ratios"),
    [
        (2, SplitMode.ROW, None),
        (5, SplitMode.ROW, None),  # two ranks without KV heads
        (3, SplitMode.ROW, (50.0, 1.0, 1.0)),  # two without anything of the layers
        (3, SplitMode.LAYER, None),
    ],
)
def test_what_is_foretold_is_what_is_given(
    devices: int,
    mode: SplitMode,
    ratios: tuple[float, ...] | None,
    isa: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = parse_devices(",".join(f"cpu:{index}" for index in range(devices)))
    path = MODEL.write(tmp_path / "tiny.gguf")
    blueprint = make_blueprint(EngineConfig(path, names, mode, ratios, context_size=64, cpu_isa=isa, dtype="float32"))
    blueprint = over_sockets(blueprint)
    prompt = tuple(range(1, 21))
    new = NewSequence(0, prompt, len(prompt), SamplingParams(temperature=0, seed=1))
    steps = [
        StepPlan(0, (Chunk(0, prompt[:12], 0, (0,), False),), new=(new,)),
        StepPlan(1, (Chunk(0, prompt[12:], 12, (0,), True),)),
        StepPlan(2, (Chunk(0, (7,), 20, (0,), True),)),
    ]
    given = counted(blueprint, steps, monkeypatch)
    foretold = traffic(blueprint.plan, blueprint.routes, blueprint.checkpoint.tensors, blueprint.lead.dtype)
    assert [[rank[0] + rank[1], rank[2]] for rank in given] == [[each.sent(20), each.sent(1)] for each in foretold]
    assert sum(each.sent(1) for each in foretold) > 0
