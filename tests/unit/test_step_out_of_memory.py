"""Ranks on cards, which are scripts here: how their caches are sized; and a step for which one of them is out of
memory: all are started anew, and every request is answered."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel
from kit.scripted_ranks import ScriptedRanks

from rowspan.config import EngineConfig
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.engine.core import EngineCore
from rowspan.engine.group import WorkerGroup
from rowspan.errors import RowspanError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import StepPlan, TokenEvent
from rowspan.scheduler.request import SamplingParams
from rowspan.worker.messages import ProfileMemory, WorkerSetup


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
    blueprint = make_blueprint(config)
    return replace(blueprint, routes=replace(blueprint.routes, probed=True))


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

        groups.append(ScriptedRanks(setups, has_room, n_blocks=[40, 50] if first else [30, 40]))
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
        profiled = [{order.tokens for _, order in group.profiled} for group in groups]
        assert profiled == [{None}, {64}], "a cache is sized by the steps that come"
    finally:
        core.close()


def test_ranks_on_one_card_profile_in_turn_and_the_least_room_is_for_all(blueprint: Blueprint) -> None:
    setups = [replace(setup, sharers=2, turn=setup.rank) for setup in blueprint.setups()]
    ranks = ScriptedRanks(setups, lambda rank, plan: True, n_blocks=[40, 30])
    group = WorkerGroup(setups, hang_seconds=60, start=lambda setups: [ranks])
    try:
        assert ranks.profiled == [(0, ProfileMemory(0)), (1, ProfileMemory(1))]
        assert ranks.opened == [30, 30]
        assert group.n_blocks == 30
    finally:
        group.close()
