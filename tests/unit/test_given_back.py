"""A step given back by one of two ranks, which are scripts: all are started anew, and every request is answered."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from kit.gguf_builder import TinyModel

from rowspan.config import EngineConfig
from rowspan.engine.core import EngineCore
from rowspan.engine.open import Blueprint, draw_up
from rowspan.errors import EngineError, RowspanError
from rowspan.plan.device import parse_devices
from rowspan.plan.split import SplitMode
from rowspan.scheduler.batch import SampledToken, StepPlan, StepResult, TokenEvent
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.messages import GivenBack, Loaded, OpenCache, WorkerReady, WorkerSetup

Script = Callable[[int, StepPlan], bool]
"""Whether a rank has room for a step."""


class ScriptedRanks:
    """See `rowspan.engine.ranks.Ranks`. Rank 0 samples; the next token is the number of those before."""

    def __init__(self, setups: Sequence[WorkerSetup], has_room: Script, n_blocks: int) -> None:
        self._has_room = has_room
        self._n_blocks = n_blocks
        self._lengths: dict[int, int] = {}
        pairs = [socket.socketpair() for _ in setups]
        self.links = [Connection(ours.detach()) for ours, _ in pairs]
        self.rehearsed: list[int | None] = []
        for rank, (_, theirs) in enumerate(pairs):
            Thread(target=self._run, args=(rank, Connection(theirs.detach())), daemon=True).start()

    is_whole = True

    def send(self, order: object) -> None:
        for link in self.links:
            link.send(order)

    def take(self, link: Connection) -> tuple[int, Any]:
        try:
            return self.links.index(link), link.recv()
        except EOFError:
            raise EngineError("A rank ended.") from None

    def progress(self) -> Mapping[int, int]:
        return {}

    def kill(self) -> None:
        pass

    def close(self) -> None:
        for link in self.links:
            link.close()

    def _run(self, rank: int, link: Connection) -> None:
        with link:
            link.send(Loaded(rank))
            while True:
                try:
                    order = link.recv()
                except (EOFError, OSError):
                    return
                if isinstance(order, OpenCache):
                    self.rehearsed.append(order.tokens)
                    link.send(WorkerReady(rank, "script", True, False, self._n_blocks, 0, 0, 0.0))
                elif isinstance(order, StepPlan) and not self._has_room(rank, order):
                    link.send(GivenBack(rank, order.number))
                elif isinstance(order, StepPlan) and rank == 0 and self._has_room(1, order):
                    link.send(self._result(order))

    def _result(self, plan: StepPlan) -> StepResult:
        sampled = [
            SampledToken(chunk.seq_id, (chunk.position + len(chunk.tokens)) % 100)
            for chunk in plan.chunks
            if chunk.samples
        ]
        return StepResult(plan.number, tuple(sampled))


@pytest.fixture
def blueprint(tmp_path: Path) -> Blueprint:
    path = TinyModel("llama", context_length=256).write(tmp_path / "tiny.gguf")
    config = EngineConfig(
        path,
        devices=parse_devices("cpu:0,cpu:1"),
        split_mode=SplitMode.ROW,
        parallel=4,
        token_budget=128,
        block_size=16,
    )
    drawn = draw_up(config)
    return replace(drawn, routes=replace(drawn.routes, probed=True))


@pytest.mark.parametrize("culprit", [0, 1])
def test_all_ranks_are_started_anew_and_nothing_is_lost(blueprint: Blueprint, culprit: int) -> None:
    groups: list[ScriptedRanks] = []
    largest: list[int] = []

    def start(setups: Sequence[WorkerSetup]) -> list[ScriptedRanks]:
        first = not groups

        def has_room(rank: int, plan: StepPlan) -> bool:
            tokens = sum(len(chunk.tokens) for chunk in plan.chunks)
            if not first and rank == 0:
                largest.append(tokens)
            return not (first and rank == culprit and plan.number == 3)

        groups.append(ScriptedRanks(setups, has_room, n_blocks=40 if first else 30))
        return groups[-1:]

    core = EngineCore(blueprint, start=start)
    try:
        answers: list[queue.SimpleQueue[TokenEvent | RowspanError]] = [queue.SimpleQueue() for _ in range(5)]
        params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
        for number, answer in enumerate(answers):
            core.submit([1] * (60 + 7 * number), params, answer.put)
        for number, answer in enumerate(answers):
            length = 60 + 7 * number
            for place in range(20):
                event = answer.get(timeout=30)
                assert isinstance(event, TokenEvent), event
                assert event.sampled is not None
                assert event.sampled.token == (length + place) % 100
        assert len(groups) == 2
        assert core.stats().blocks_total == 30
        assert max(largest) <= 64, "steps are half as large"
        assert [group.rehearsed for group in groups] == [[None] * 2, [64] * 2], "a cache is sized by those that come"
    finally:
        core.close()
