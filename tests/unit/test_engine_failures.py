"""Faults that nobody has foreseen, in the engine's own process: all who wait hear of them, health tells, and the engine
goes on if it can."""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from kit.gguf_builder import TinyModel
from kit.http_server import eventually
from kit.scripted_ranks import ScriptedRanks

from rowspan.backends.native import NativeBackend
from rowspan.backends.protocol import HealthState
from rowspan.config import EngineConfig
from rowspan.engine import local_ranks
from rowspan.engine.blueprint import Blueprint, make_blueprint
from rowspan.engine.engine import Engine
from rowspan.engine.local_ranks import LocalRanks
from rowspan.errors import EngineError, RowspanError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import TokenEvent
from rowspan.scheduler.request import SamplingParams
from rowspan.scheduler.scheduler import Scheduler
from rowspan.worker.messages import WorkerSetup

PARAMS = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture
def blueprint(tmp_path: Path) -> Blueprint:
    path = TinyModel("llama", context_length=256).write(tmp_path / "tiny.gguf")
    config = EngineConfig(path, parse_devices("cpu:0,cpu:1"), SplitMode.ROW, parallel=4, token_budget=128)
    drawn = make_blueprint(config)
    return replace(drawn, routes=replace(drawn.routes, probed=True))


class Starter:
    """Starts ranks that follow a script. faults: what the next starts raise instead; None: nothing."""

    def __init__(self, *faults: Exception | None) -> None:
        self.faults = list(faults)
        self.groups = 0

    def __call__(self, setups: Sequence[WorkerSetup]) -> list[ScriptedRanks]:
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        self.groups += 1
        return [ScriptedRanks(setups, lambda rank, plan: True, n_blocks=[40, 40])]


def answer(engine: Engine) -> list[int]:
    pieces = engine.generate([1] * 10, PARAMS)
    return [piece.generated for piece in pieces]


def health(engine: Engine) -> HealthState:
    return NativeBackend(engine._core._blueprint, engine).health().state


def once(real: Any, fault: Exception) -> Any:
    """The real function, but for its first call."""
    faults = [fault]

    def call(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return real(*arguments)

    return call


def test_a_fault_in_a_step_ends_its_requests_and_nothing_else(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = Starter()
    with Engine(blueprint, start=start) as engine:
        assert answer(engine)[-1] == 4
        monkeypatch.setattr(Scheduler, "finish_step", once(Scheduler.finish_step, KeyError("no such sequence")))
        with caplog.at_level(logging.ERROR), pytest.raises(EngineError, match="KeyError: 'no such sequence'"):
            answer(engine)
        assert any(record.exc_info for record in caplog.records), "the log has the traceback"
        assert answer(engine)[-1] == 4
        assert start.groups == 2
        assert health(engine) == HealthState.READY


def test_workers_that_cannot_be_started_are_told_of_until_they_can(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Starter(None, OSError(errno.EMFILE, "Too many open files"), EngineError("Still none."))
    with Engine(blueprint, start=start) as engine:
        assert answer(engine)[-1] == 4
        monkeypatch.setattr(Scheduler, "finish_step", once(Scheduler.finish_step, EngineError("A worker ended.")))
        with pytest.raises(EngineError, match="A worker ended"):
            answer(engine)  # and the new start fails for want of descriptors
        with pytest.raises(EngineError, match="Still none"):
            answer(engine)
        assert health(engine) == HealthState.FAILED
        assert answer(engine)[-1] == 4, "the next request tries again"
        assert health(engine) == HealthState.READY


def test_a_loop_that_ends_is_told_of(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> NoReturn:
        raise RuntimeError("a fault of the loop's own")

    with Engine(blueprint, start=Starter()) as engine:
        assert health(engine) == HealthState.READY
        monkeypatch.setattr(Scheduler, "add", broken)
        events: queue.SimpleQueue[TokenEvent | RowspanError] = queue.SimpleQueue()
        with caplog.at_level(logging.ERROR):
            engine._core.submit([1] * 10, PARAMS, events.put)
            engine._core._thread.join(10)
        assert not engine._core._thread.is_alive()
        assert any(record.exc_info for record in caplog.records)
        assert health(engine) == HealthState.FAILED
        told = events.get(timeout=10)
        assert isinstance(told, EngineError)
        for ask in (engine.stats, lambda: answer(engine)):
            with pytest.raises(EngineError, match="a fault of the loop's own"):
                ask()


def test_what_is_counted_is_told_in_the_middle_of_a_step(blueprint: Blueprint) -> None:
    """At once, and without a thread that would wait: scrapes must not hold up what others wait for."""
    go_on = threading.Event()

    def start(setups: Sequence[WorkerSetup]) -> list[ScriptedRanks]:
        return [ScriptedRanks(setups, lambda rank, plan: go_on.wait(30), n_blocks=[40, 40])]

    with Engine(blueprint, start=start) as engine:
        backend = NativeBackend(blueprint, engine)
        events: queue.SimpleQueue[TokenEvent | RowspanError] = queue.SimpleQueue()
        engine._core.submit([1] * 10, PARAMS, events.put)
        assert eventually(lambda: engine.latest_stats.running == 1)
        before = threading.active_count()
        told = [asyncio.run(backend.stats()) for _ in range(20)]
        assert threading.active_count() == before
        assert {stats and stats.running for stats in told} == {1}
        assert not go_on.is_set()
        go_on.set()
        for _ in range(4):
            event = events.get(timeout=30)
        assert isinstance(event, TokenEvent)
        assert event.finish is not None
        assert (engine.latest_stats.running, engine.latest_stats.generated_tokens) == (0, 4), "before we know"
        assert engine.latest_stats == engine.stats()


def test_an_engine_that_was_shut_down_has_not_failed(blueprint: Blueprint) -> None:
    engine = Engine(blueprint, start=Starter())
    engine.close()
    assert engine.failure is None
    with pytest.raises(EngineError, match="shutting down"):
        answer(engine)


def test_no_process_to_be_had_is_an_error_of_the_engine(blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(local_ranks, "spawn_rank", none)
    with pytest.raises(EngineError, match="Too many open files"):
        LocalRanks(blueprint.setups())


def test_a_rank_that_reads_nothing_does_not_block_an_order(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long prompt is more than a socket holds; whether the rank hangs is found out while its answer is awaited."""
    monkeypatch.setattr(local_ranks, "COMMAND", (sys.executable, "-S", "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(local_ranks, "EXIT_SECONDS", 0.1)
    ranks = LocalRanks(blueprint.setups())
    began = time.monotonic()
    for order in ("small", list(range(10**6)), "small again"):
        ranks.send(order)
    ranks.close()
    assert time.monotonic() - began < 5


def test_large_and_small_orders_arrive_in_turn(blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from multiprocessing.connection import Connection\n"
        "link = Connection(int(sys.argv[1])); link.recv()\n"
        "while True: link.send(sys.getsizeof(link.recv()))"
    )
    monkeypatch.setattr(local_ranks, "COMMAND", (sys.executable, "-c", script))
    ranks = LocalRanks(blueprint.setups())
    orders = ["a" * size for size in (1, 10**6, 2, 3, 10**5, 4)]
    for order in orders:
        ranks.send(order)
    for link in ranks.links:
        assert [ranks.take(link)[1] for _ in orders] == [sys.getsizeof(order) for order in orders]
    ranks.close()


def test_progress_is_seen_within_a_call(tmp_path: Path) -> None:
    """A slow call, such as the attention of a long prompt, is no hang: it is many tasks."""
    model = TinyModel("llama", n_heads=64, n_kv_heads=64, hidden_size=64, head_dim=128, n_layers=1, context_length=8192)
    config = EngineConfig(model.write(tmp_path / "tiny.gguf"), parallel=1, token_budget=8192, threads=1)
    with Engine.open(config) as engine:
        group = engine._core._group
        assert group is not None
        seen: set[int] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                seen.update(group._progress().values())

        watcher = threading.Thread(target=watch)
        watcher.start()
        list(engine.generate([1] * 5000, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)))
        done.set()
        watcher.join()
    by_call: dict[int, set[int]] = {}
    for number in seen:
        by_call.setdefault(number >> 20, set()).add(number)  # native/team.hpp: tasks are the low 20 bits
    assert max(map(len, by_call.values())) > 3
    assert min(by_call) < max(by_call)
