"""Which models are loaded, and when: with backends that only say that they are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from rowspan.backends.protocol import LoadWatch
from rowspan.cli.engine_options import EngineOptions
from rowspan.cli.several_models import listed, options_of
from rowspan.errors import CheckpointError, OutOfMemoryError, RowspanError, UsageError
from rowspan.server.error_replies import BusyError, FieldError, UnknownModelError
from rowspan.server.models.entry import ModelEntry, ModelState
from rowspan.server.models.keep_alive import keep_alive_seconds
from rowspan.server.models.pool import ModelPool


class FakeBackend:
    """Takes a place among so many that the machine has room for."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self.name = name

    def start(self, watch: LoadWatch) -> None:
        self._machine.log.append(f"+{self.name}")
        if self.name in self._machine.broken:
            raise CheckpointError(f"{self.name} is broken.", fix="Fetch it again.")
        if len(self._machine.running) >= self._machine.room:
            raise OutOfMemoryError("There is no room.")
        self._machine.running.add(self.name)

    def stop(self) -> None:
        self._machine.log.append(f"-{self.name}")
        self._machine.running.discard(self.name)


class Machine:
    def __init__(self, room: int = 99) -> None:
        self.room = room
        self.broken: set[str] = set()
        self.running: set[str] = set()
        self.log: list[str] = []
        self.now = 0.0

    def pool(self, *entries: ModelEntry, most_loaded: int = 99, most_waiting: int = 8) -> ModelPool:
        def make_backend(entry: ModelEntry) -> Any:
            return FakeBackend(self, entry.name)

        return ModelPool(
            entries,
            make_backend,
            lambda entry, backend: entry.name.upper(),
            most_loaded=most_loaded,
            most_waiting=most_waiting,
            clock=lambda: self.now,
        )


def entries(names: str, **about: Any) -> list[ModelEntry]:
    return [ModelEntry(name, name, **about) for name in names]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


async def ask(machine: Machine, pool: ModelPool, names: str) -> None:
    """One request after the other, a second apart."""
    for name in names:
        machine.now += 1
        async with pool.used(pool.find(name)) as app:
            assert app == name.upper()
            assert name in machine.running


def test_the_least_recently_used_makes_room() -> None:
    async def work() -> None:
        machine = Machine()
        pool = machine.pool(*entries("abcd"), most_loaded=2)
        await ask(machine, pool, "abacada")
        assert machine.log == ["+a", "+b", "-b", "+c", "-c", "+d"]
        await pool.close()
        assert not machine.running

    run(work)


def test_what_does_not_fit_beside_others_is_loaded_in_their_place() -> None:
    async def work() -> None:
        machine = Machine(room=2)
        pool = machine.pool(*entries("abc"))
        await ask(machine, pool, "abc")
        assert machine.running == {"b", "c"}
        machine.room = 0
        with pytest.raises(RowspanError, match=r"a could not be loaded.*no room"):
            await ask(machine, pool, "a")
        assert pool.find("a").state is ModelState.FAILED
        machine.room = 2
        await ask(machine, pool, "a")

    run(work)


def test_models_that_answer_and_pinned_ones_stay() -> None:
    async def work() -> None:
        machine = Machine()
        pool = machine.pool(*entries("p", pinned=True), *entries("ab"), most_loaded=2)
        await ask(machine, pool, "p")
        async with pool.used(pool.find("a")):
            waiting = asyncio.create_task(ask(machine, pool, "b"))
            await asyncio.sleep(0.05)
            assert machine.running == {"p", "a"}, "b waits until a has answered"
            assert pool.find("b").state is ModelState.LOADING
        await waiting
        assert machine.running == {"p", "b"}
        full = machine.pool(*entries("xy", pinned=True), *entries("z"), most_loaded=2)
        await ask(machine, full, "xy")
        with pytest.raises(BusyError, match="pinned"):
            await ask(machine, full, "z")

    run(work)


def test_requests_wait_together_and_not_too_many() -> None:
    async def work() -> None:
        machine = Machine()
        pool = machine.pool(*entries("a"), most_waiting=3)
        asked = await asyncio.gather(*(ask(machine, pool, "a") for _ in range(5)), return_exceptions=True)
        assert machine.log == ["+a"], "it is loaded once"
        assert [type(one) for one in asked] == [type(None)] * 3 + [BusyError] * 2

    run(work)


def test_whoever_gives_up_waiting_stops_nobody_else() -> None:
    async def work() -> None:
        machine = Machine()
        pool = machine.pool(*entries("ab"))
        first, second = (asyncio.create_task(ask(machine, pool, "a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert pool.find("a").users == 0
        await ask(machine, pool, "b")

    run(work)


def test_a_model_that_cannot_be_loaded_says_why_to_all_who_wait_and_may_be_tried_again() -> None:
    async def work() -> None:
        machine = Machine()
        machine.broken.add("a")
        pool = machine.pool(*entries("ab"))
        asked = await asyncio.gather(*(ask(machine, pool, "a") for _ in range(2)), return_exceptions=True)
        assert [str(one) for one in asked] == ["a could not be loaded. a is broken. Fetch it again."] * 2
        assert "broken" in str(pool.find("a").failure)
        await ask(machine, pool, "b")
        machine.broken.clear()
        await ask(machine, pool, "a")

    run(work)


def test_time_to_live_and_groups() -> None:
    async def work() -> None:
        machine = Machine()
        pool = machine.pool(*entries("ab", ttl=10.0), *entries("xy", group="big"))
        await ask(machine, pool, "abxy")
        assert machine.running == {"a", "b", "y"}, "of a group one is loaded"
        machine.now = 11.5  # a was used at 1, b at 2
        await pool.unload_expired()
        assert machine.running == {"b", "y"}
        async with pool.used(pool.find("b")):
            machine.now = 50
            await pool.unload_expired()
            assert "b" in machine.running, "it is in use"
        machine.now = 61
        await pool.unload_expired()
        assert machine.running == {"y"}
        await pool.close()

    run(work)


def test_names_are_found_in_any_case_with_aliases_and_tags() -> None:
    pool = Machine().pool(ModelEntry("Qwen3:8b", "x", aliases=("big",)), ModelEntry("tiny", "y"))
    for name in ("qwen3:8B", "BIG", "big:latest", "", None):
        assert pool.find(name).entry.source == "x"
    assert pool.find("tiny:latest").entry.source == "y"
    with pytest.raises(UnknownModelError, match="This server has Qwen3:8b, tiny"):
        pool.find("other")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0.0), (5, 5.0), (-1, None), ("5m", 300.0), ("1h30m", 5400.0), ("500ms", 0.5), ("-1", None), ("0", 0.0)],
)
def test_keep_alive(value: object, seconds: float | None) -> None:
    assert keep_alive_seconds(value) == seconds


@pytest.mark.parametrize("value", ["", "soon", "5 m", True, [], "1e9x", float("nan")])
def test_keep_alive_that_is_none(value: object) -> None:
    with pytest.raises(FieldError, match="keep_alive"):
        keep_alive_seconds(value)


FILE = """
[models."qwen3:8b"]
aliases = ["fast", "default"]
pinned = true
ctx-size = 4096

[models.coder]
source = "/models/coder.gguf"
ttl = 300
backend = "llamacpp"
group = "big"
split-mode = "row"
no-prefix-reuse = true
"""


def test_a_file_of_models(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(FILE)
    first, second = listed([], None, file, ttl=None, backend="native")
    assert (first.name, first.source, first.aliases, first.pinned) == (
        "qwen3:8b",
        "qwen3:8b",
        ("fast", "default"),
        True,
    )
    assert (second.source, second.ttl, second.backend, second.group) == ("/models/coder.gguf", 300, "llamacpp", "big")
    shared = EngineOptions(threads=3, context_size=99)
    assert options_of(first, shared) == EngineOptions(threads=3, context_size=4096)
    own = options_of(second, shared)
    assert (own.split_mode, own.no_prefix_reuse, own.context_size) == ("row", True, 99)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models = 3", "names no model"),
        ("[models.a]\nsouce = 'x'", "'souce'.*not known.*source"),
        ("[models.a]\nctx-size = 'many'", "ctx-size.*'many'.*int"),
        ("[models.a]\npinned = 1", "pinned"),
        ("[models.a]\naliases = [1]", "aliases"),
        ("[models.a]\n[models.b]\naliases = ['A']", "Two models are called A"),
        ("[models", "no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        listed([], None, tmp_path / "m.toml", ttl=None, backend="native")


def test_a_folder_of_models(tmp_path: Path) -> None:
    files: Sequence[str] = ("a.gguf", "sub/b-00001-of-00002.gguf", "sub/b-00002-of-00002.gguf", "notes.txt")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [entry.name for entry in listed([], tmp_path, None, ttl=None, backend="native")] == ["a", "b"]
    for wrong, says in ((tmp_path / "none", "is no folder"), (tmp_path / "empty", "no model to serve")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=says):
            listed([], wrong, None, ttl=None, backend="native")
