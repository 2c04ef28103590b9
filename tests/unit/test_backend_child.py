"""Supervised children: started, watched, restarted, ended, and never left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kit import fake_llama_server
from kit.http_server import eventually

from rowspan.backends.process.child import Child, ChildError, ChildState, Launch, Patience
from rowspan.backends.process.child_log import FILE_BYTES, KEPT_LINES, ChildLog

QUICK = Patience(end=1.0, back_off=(0.05, 0.05))


class Fake:
    """The fake llama-server, with what is to go wrong."""

    title = "fake-server"

    def __init__(self, **environment: str) -> None:
        self.environment = environment

    def launch(self, port: int, key: str) -> Launch:
        return Launch([*fake_llama_server.COMMAND, "--port", str(port)], {"LLAMA_API_KEY": key, **self.environment})


@pytest.fixture
def log(tmp_path: Path) -> ChildLog:
    return ChildLog(tmp_path / "logs" / "fake.log")


@pytest.fixture
def stopped(log: ChildLog) -> Iterator[list[Child]]:
    """Children to be stopped after the test, whatever happens."""
    children: list[Child] = []
    yield children
    for child in children:
        child.stop()


def family() -> list[psutil.Process]:
    """Processes started by this one, and by those, that run."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def test_it_serves_until_stopped_and_may_be_started_again(log: ChildLog) -> None:
    before = family()
    child = Child(Fake(FAKE_LOAD="0.2"), log, QUICK)
    said: list[str] = []
    for _ in range(2):
        child.start(said.append)
        assert child.state == ChildState.READY
        command = " ".join(argument for process in family() for argument in process.cmdline())
        assert child.address().key not in command, "everyone can read a command line"
        child.stop()
        assert str(child.state) == "stopped"
        assert set(family()) <= set(before)
        with pytest.raises(ChildError, match="stopped"):
            child.address()
    assert "loading the model" in said
    assert "loading the model" in log.file.read_text()


def test_dying_while_loading_is_explained(log: ChildLog) -> None:
    child = Child(Fake(FAKE_DIE="load"), log, QUICK)
    with pytest.raises(ChildError) as died:
        child.start()
    assert "fake-server ended while loading (exit code 3)" in died.value.what
    assert str(log.file) in died.value.what
    assert died.value.why.startswith("ValueError: tensor 'blk.0' is damaged"), "the cause comes first"
    assert "giving up" in died.value.why
    assert child.state == ChildState.FAILED


def test_a_warning_that_mentions_an_error_is_not_the_cause(log: ChildLog) -> None:
    lines = [
        "WARNING 11-22 10:00:01 few file descriptors may cause `OSError: [Errno 24] Too many open files`",
        "(EngineCore pid=7) ERROR 11-22 10:00:02 ValueError: no tokenizer here",
        "RuntimeError: the engine did not start",
    ]
    log.follow(io.BytesIO("\n".join(lines).encode()))
    assert log.cause() == "ValueError: no tokenizer here"


def test_a_program_that_is_not_there(log: ChildLog) -> None:
    class Nothing(Fake):
        def launch(self, port: int, key: str) -> Launch:
            return Launch(["/no/such/program"], {})

    with pytest.raises(ChildError, match=r"(?s)127.*No such file"):
        Child(Nothing(), log, QUICK).start()


def test_one_that_never_answers(log: ChildLog) -> None:
    patience = Patience(start=0.3, end=1.0)
    with pytest.raises(ChildError, match=r"did not answer within 0\.3 s"):
        Child(Fake(FAKE_LOAD="60"), log, patience).start()


def test_a_crash_is_followed_by_a_restart(
    log: ChildLog, stopped: list[Child], caplog: pytest.LogCaptureFixture
) -> None:
    child = Child(Fake(), log, QUICK)
    stopped.append(child)
    child.start()
    first = child.address()
    kill_program()
    assert eventually(lambda: child.state != ChildState.READY)
    assert eventually(lambda: child.state == ChildState.READY)
    assert child.address().key != first.key
    assert "ended while it served (signal 9)" in caplog.text
    assert child.reason is None


def test_after_crashes_in_a_row_it_is_given_up(log: ChildLog, stopped: list[Child], tmp_path: Path) -> None:
    flag = tmp_path / "fine"
    flag.touch()
    child = Child(Fake(FAKE_DIE=f"once:{flag}"), log, QUICK)
    stopped.append(child)
    child.start()
    flag.unlink()
    kill_program()
    assert eventually(lambda: child.state == ChildState.FAILED)
    assert "ended while loading (exit code 3)" in str(child.reason)
    assert not [process for process in family() if "fake_llama_server" in " ".join(process.cmdline())]
    flag.touch()
    child.stop()
    child.start()
    assert child.state == ChildState.READY


def test_what_ignores_sigterm_is_killed_with_its_children(log: ChildLog, tmp_path: Path) -> None:
    file = tmp_path / "grandchild"
    child = Child(Fake(FAKE_CHILD=str(file), FAKE_DEAF="1"), log, Patience(end=0.3))
    child.start()
    grandchild = psutil.Process(int(file.read_text()))
    child.stop()
    assert not grandchild.is_running()


OWNER = """
import sys, time
from pathlib import Path
from rowspan.backends.process.child import Child, Patience
from rowspan.backends.process.child_log import ChildLog
from unit.test_backend_child import Fake

child = Child(Fake(FAKE_CHILD=sys.argv[1]), ChildLog(Path(sys.argv[2])), Patience(end=0.3))
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that gets the paths which every started server leaves lying about."""
    file, shared = tmp_path / "litter", Path("/dev/shm") / f"somebody_else_s_{os.getpid()}"
    shared.touch()
    monkeypatch.setenv("FAKE_LITTER", str(file))
    monkeypatch.setenv("FAKE_SHARED", shared.name)
    yield file
    try:
        assert shared.exists(), "it was there before"
    finally:
        shared.unlink(missing_ok=True)


def paths_in(litter: Path) -> list[Path]:
    return [Path(path) for path in litter.read_text().split()]


def test_a_program_that_is_killed_leaves_no_files_nor_shared_memory(
    log: ChildLog, stopped: list[Child], litter: Path
) -> None:
    child = Child(Fake(), log, QUICK)
    stopped.append(child)
    child.start()
    assert eventually(litter.exists)
    first = paths_in(litter)
    assert len(first) == 3
    assert all(path.exists() for path in first)
    assert first[2].parent.name.startswith("rowspan-"), "a temporary folder of its own"
    kill_program()
    assert eventually(lambda: len(paths_in(litter)) == 6), "started again"
    assert eventually(lambda: not any(path.exists() for path in first))
    child.stop()
    assert not any(path.exists() for path in [*paths_in(litter), *(path.parent for path in paths_in(litter)[2::3])])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_an_owner_that_is_killed(tmp_path: Path, how: signal.Signals, litter: Path) -> None:
    file = tmp_path / "grandchild"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(file), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    with owner:
        assert owner.stdout is not None
        guardian = psutil.Process(int(owner.stdout.readline()))
        processes = [guardian, *guardian.children(recursive=True), psutil.Process(int(file.read_text()))]
        assert len(set(processes)) == 4, "the guardian, the server, and two that this has started"
        assert eventually(litter.exists)
        owner.send_signal(how)
    assert eventually(lambda: not any(process.is_running() for process in processes))
    assert not any(path.exists() for path in paths_in(litter))


def test_the_log_is_bounded(log: ChildLog, stopped: list[Child]) -> None:
    script = f"print('x' * 10**6); [print(n, 'y' * 990) for n in range({2 * FILE_BYTES // 1000})]; print('end')"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        log.follow(process.stdout)
    assert log.last(1) == ["end"]
    assert len(log.last(10**6)) == KEPT_LINES
    sizes = [file.stat().st_size for file in log.file.parent.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= FILE_BYTES


def kill_program() -> None:
    """As a crash of the program, not of its guardian."""
    (program,) = (
        process
        for process in family()
        if "--port" in process.cmdline() and not any("guardian" in argument for argument in process.cmdline())
    )
    program.kill()
    time.sleep(0.05)
