"""Engines that are loaded but not measured are paused, and none stays so, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit.backends import fake_backend, setup_for
from kit.gguf_builder import TinyModel
from kit.http_server import eventually
from kit.leftovers import leftovers

from rowspan.backends.process.programs import find_llamacpp_program
from rowspan.backends.protocol import BackendName, Model, ModelFormat
from rowspan.bench.engines.native_jobs import gguf_facts, native_jobs
from rowspan.bench.engines.served_jobs import ServedModel, served_job
from rowspan.bench.engines.served_runner import ServedRunner
from rowspan.bench.grid import Grid, Workload
from rowspan.bench.job import Job, LoadFacts, Sample
from rowspan.bench.run import pool as pool_module
from rowspan.bench.run.pause import Pauser
from rowspan.bench.run.pool import Others, Pool
from rowspan.bench.run.rounds import Procedure, measure_jobs
from rowspan.bench.run.stopper import Stopper
from rowspan.config import BackendConfig, EngineConfig
from rowspan.errors import EngineError
from rowspan.plan.device import Device, parse_devices
from rowspan.plan.split_mode import SplitMode

PP, TG = Workload(8, 0), Workload(0, 4)
SPIN = "while True: pass"
MOST_CHILDREN = 400
# Starts one process after the other, for longer than it is let; they end with their standard input.
BREEDS = f"""
import subprocess, sys, time
child = [sys.executable, "-I", "-S", "-c", "input()"]
children = []
while len(children) < {MOST_CHILDREN}:
    children.append(subprocess.Popen(child, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL))
    time.sleep(0.02)
"""


@pytest.fixture
def spinner() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", SPIN]) as process:
        yield process
        process.kill()


@pytest.fixture
def pauser() -> Iterator[Pauser]:
    pauser = Pauser()
    yield pauser
    pauser.close()


def is_stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


def test_what_is_held_computes_nothing_until_it_is_let_go(spinner: subprocess.Popen[bytes], pauser: Pauser) -> None:
    process = psutil.Process(spinner.pid)
    assert pauser.hold([spinner.pid]) == {}
    assert eventually(lambda: is_stopped(process))
    before = process.cpu_times().user
    time.sleep(0.2)
    assert process.cpu_times().user == before
    assert pauser.hold([]) == {}
    assert eventually(lambda: process.cpu_times().user > before)
    assert not is_stopped(process)


def test_a_tree_is_held_with_what_it_starts_meanwhile(pauser: Pauser) -> None:
    with leftovers() as left:
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", BREEDS]) as parent:
            root = psutil.Process(parent.pid)
            assert eventually(lambda: len(root.children()) > 3)
            assert pauser.hold([parent.pid]) == {}
            held = [root, *root.children(recursive=True)]
            assert len(held) <= MOST_CHILDREN, "it was in the middle of it"
            assert eventually(lambda: all(map(is_stopped, held)))
            time.sleep(0.1)
            assert len(root.children(recursive=True)) == len(held) - 1
            pauser.close()
            parent.kill()  # its children end with their standard input
        assert eventually(lambda: not left())


def test_what_has_ended_is_no_failure(pauser: Pauser) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert pauser.hold([process.pid]) == {}


def test_a_process_of_somebody_else_is_left_and_said(
    spinner: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "suspend", refuse)
    assert Stopper().hold([spinner.pid]) == {spinner.pid: f"process {spinner.pid} is not ours to stop"}


OWNER = """
import sys, time
from rowspan.bench.run.pause import Pauser
pauser = Pauser()
pauser.hold([int(sys.argv[1])])
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_all_goes_on_when_the_owner_ends(spinner: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process = psutil.Process(spinner.pid)
    command = [sys.executable, "-c", OWNER, str(spinner.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        assert eventually(lambda: is_stopped(process))
        (stopper,) = psutil.Process(owner.pid).children()
        stopper.terminate()  # a shutdown tells everybody, in whatever order
        time.sleep(0.1)
        assert is_stopped(process)
        owner.send_signal(how)
    assert eventually(lambda: not is_stopped(process))
    assert eventually(lambda: not stopper.is_running())


class _Runner:
    """Has a process that spins; sees who is stopped while it is measured."""

    def __init__(self, name: str, seen: list[tuple[str, list[str]]], all_: dict[str, psutil.Process]) -> None:
        self.facts = LoadFacts(0.0, None, None)
        self._name, self._seen, self._all = name, seen, all_
        self._process = subprocess.Popen([sys.executable, "-I", "-S", "-c", SPIN])
        all_[name] = psutil.Process(self._process.pid)

    def prepare(self, workload: Workload, *, warm_up: bool) -> None: ...

    def measure(self, workload: Workload) -> Sample:
        self._look("measured")
        return Sample(1_000_000)

    def processes(self) -> list[int]:
        return [self._process.pid]

    def rouse(self) -> None:
        self._look("roused")

    def peak_memory(self) -> int | None:
        return None

    def wake_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        self._look("closed")
        del self._all[self._name]
        self._process.kill()
        self._process.wait()

    def _look(self, what: str) -> None:
        time.sleep(0.02)  # a signal takes its time
        self._seen.append((f"{self._name} {what}", [name for name, one in self._all.items() if is_stopped(one)]))


def spinning_jobs(*names: str) -> tuple[list[Job], list[tuple[str, list[str]]]]:
    """And what they will have seen."""
    seen: list[tuple[str, list[str]]] = []
    running: dict[str, psutil.Process] = {}

    def job(name: str) -> Job:
        fields = {"engine": name, "n_threads": 1}
        return Job(
            name, fields, lambda: _Runner(name, seen, running), memory_bytes=1, devices=(Device("cpu", 0),), demand=None
        )

    return [job(name) for name in names], seen


def measure(jobs: list[Job], **options: Any) -> list[dict[str, Any]]:
    return list(measure_jobs(jobs, [PP], Procedure(2, **options), lambda progress: None))


def test_only_the_one_that_is_measured_runs() -> None:
    jobs, seen = spinning_jobs("a", "b")
    with leftovers() as left:
        rows = measure(jobs)
        assert eventually(lambda: not left())
    # The first time nobody was paused before, so that nobody has to come to itself.
    assert seen[:4] == [("a measured", []), ("b measured", ["a"]), ("a roused", ["b"]), ("a measured", ["b"])]
    assert seen[4:6] == [("b roused", ["a"]), ("b measured", ["a"])]
    assert sorted(seen[6:]) == [("a closed", []), ("b closed", [])], "what is stopped would not hear that it is to end"
    assert [(row["other_engines_paused"], row["other_engines_running"]) for row in rows] == [(1, 0), (1, 0)]


def test_all_run_where_that_is_wished() -> None:
    jobs, seen = spinning_jobs("a", "b")
    rows = measure(jobs, pause_others=False)
    assert [held for _, held in seen] == [[]] * 6
    assert [(row["other_engines_paused"], row["other_engines_running"]) for row in rows] == [(0, 1), (0, 1)]


def test_one_that_cannot_be_paused_is_told_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(Pauser):
        def hold(self, roots: Any) -> dict[int, str]:
            return dict.fromkeys(roots, "process 7 is not ours to stop")

    monkeypatch.setattr(pool_module, "Pauser", Refuses)
    (a, b), seen = spinning_jobs("a", "b")
    told: list[str] = []
    with Pool(True, told.append, pause_others=True) as pool:
        for job in (a, b):
            pool.runner(job)
        assert pool.others == Others(running=1, paused=0)
        pool.runner(a)
    assert "a goes on beside b: process 7 is not ours to stop" in told
    assert not [what for what, _ in seen if "roused" in what]


def test_a_stopper_that_is_killed_ends_the_benchmark_and_leaves_nothing() -> None:
    jobs, _ = spinning_jobs("a", "b")
    start = jobs[1].start

    def sabotage() -> Any:
        for child in psutil.Process().children():
            with suppress(psutil.ZombieProcess):  # of other tests
                if "rowspan.bench.run.stopper" in child.cmdline():
                    child.kill()
        return start()

    object.__setattr__(jobs[1], "start", sabotage)
    with leftovers() as left, pytest.raises(EngineError, match="--no-pause-others"):
        measure(jobs)
    assert not left()


def native(path: Path, *modes: SplitMode) -> list[Job]:
    grid = Grid([parse_devices("cpu:0,cpu:1")], modes, [0], [None], [None], [None], [None], [512], [2])
    return native_jobs({path: None}, grid, [PP, TG])


def served(tmp_path: Path) -> Job:
    """A server that answers as llama.cpp's does, and computes all the time."""
    setup = setup_for(TinyModel().write(tmp_path / "served.gguf"), tmp_path / "logs")

    def start() -> ServedRunner:
        return ServedRunner(fake_backend(setup), 50)

    return Job(
        "served", {"engine": "served", "n_threads": 1}, start, memory_bytes=1, devices=(Device("cpu", 0),), demand=None
    )


def seconds_of(processes: list[psutil.Process]) -> float:
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


@pytest.fixture(params=["fake", "llama-server"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Job, int]:
    """And how many processes it has."""
    if request.param == "fake":
        monkeypatch.setenv("FAKE_SPIN", "1")
        return served(tmp_path), 2
    if find_llamacpp_program("llama-server", BackendConfig()) is None:
        pytest.skip("llama-server: not in PATH")
    path = TinyModel(scheme="Q8_0").write(tmp_path / "served.gguf")
    model = ServedModel(Model("tiny", str(path), ModelFormat.GGUF), *gguf_facts(path)[:2], vocabulary=50)
    config = EngineConfig(path, context_size=64, parallel=1, threads=1, split_mode=SplitMode.NONE)
    return served_job(BackendName.LLAMACPP, model, config, BackendConfig(log_folder=tmp_path / "logs")), 1


def test_a_server_s_whole_tree_rests_while_native_workers_compute_and_the_other_way_round(
    tmp_path: Path, server: tuple[Job, int]
) -> None:
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    jobs = [*native(path, SplitMode.ROW), server[0]]
    work = Workload(0, 3)
    with leftovers() as left:
        with Pool(True, lambda text: None, pause_others=True) as pool:
            for job in jobs:
                pool.runner(job).prepare(work, warm_up=True)
            trees = [[one for root in pool.runner(job).processes() for one in _tree(root)] for job in jobs]
            assert [len(tree) for tree in trees] == [2, server[1]], "two workers; the server, without its guardian"
            for measured, resting in ((0, 1), (1, 0), (0, 1)):
                runner = pool.runner(jobs[measured])
                before = seconds_of(trees[resting])
                assert runner.measure(work).ns > 0
                time.sleep(0.1)
                assert seconds_of(trees[resting]) == before
                assert all(map(is_stopped, trees[resting]))
                assert not any(map(is_stopped, trees[measured]))
                assert pool.others == Others(running=0, paused=1)
        assert eventually(lambda: not left())


def _tree(root: int) -> list[psutil.Process]:
    return [psutil.Process(root), *psutil.Process(root).children(recursive=True)]


BENCH = """
import sys
from pathlib import Path
from rowspan.bench.run.rounds import Procedure, measure_jobs
from rowspan.plan.split_mode import SplitMode
from unit.test_bench_pause import PP, native, served

folder = Path(sys.argv[1])
jobs = [*native(folder / "m.gguf", SplitMode.ROW), served(folder)]
for _ in measure_jobs(jobs, [PP], Procedure(10**6), lambda turn: print(turn.done, flush=True)):
    pass
"""


def test_a_benchmark_that_is_killed_leaves_nobody_paused_or_running(tmp_path: Path) -> None:
    TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "FAKE_SPIN": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", BENCH, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as bench:
        assert bench.stdout is not None
        for line in bench.stdout:
            family = psutil.Process(bench.pid).children(recursive=True)
            if int(line) > 4 and any(map(is_stopped, family)):
                break
        assert len(family) == 6, "two workers; guardian, server and what that has started; who pauses them"
        bench.kill()
    assert eventually(lambda: not any(process.is_running() for process in family), 20.0)
