"""The order of repetitions, what is kept after an interruption, the store, time left, energy, circumstances."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from kit.recorded_rig import unpack

from rowspan.bench.grid import Workload
from rowspan.bench.job import Job, LoadFacts, Sample
from rowspan.bench.machine.circumstances import look, machine_fields, state_fields
from rowspan.bench.machine.energy import Energy, Meter, Reading, meters
from rowspan.bench.machine.roofline import Ceilings
from rowspan.bench.results.fields import NAMES, complete
from rowspan.bench.results.store import Store
from rowspan.bench.run import rounds
from rowspan.bench.run.rounds import Procedure, RoundsProgress, measure_jobs, turns
from rowspan.bench.run.time_left import TimeLeft
from rowspan.errors import RowspanError, UsageError
from rowspan.plan.device import Device
from rowspan.rig.probe.rig import probe
from rowspan.rig.root import Root

PP, TG = Workload(8, 0), Workload(0, 4)


@dataclass
class Bench:
    """Makes jobs that note what is done with them, instead of computing."""

    done: list[str] = field(default_factory=list)
    interrupt_at: int | None = None
    fail_at: int | None = None

    def job(self, name: str) -> Job:
        fields = {"engine": name, "n_threads": 1}
        return Job(name, fields, lambda: _Runner(name, self), memory_bytes=1, devices=(Device("cpu", 0),), demand=None)


@dataclass
class _Runner:
    name: str
    bench: Bench
    facts: LoadFacts = field(default_factory=lambda: LoadFacts(0.5, None, None))

    def prepare(self, workload: Workload, *, warm_up: bool) -> None:
        self.bench.done.append(f"{self.name} prepares {workload.name}")

    def measure(self, workload: Workload) -> Sample:
        self.bench.done.append(f"{self.name} {workload.name}")
        if len(self.bench.done) == self.bench.interrupt_at:
            raise KeyboardInterrupt
        if len(self.bench.done) == self.bench.fail_at:
            raise RowspanError("It is broken.")
        return Sample(1_000_000)

    def processes(self) -> list[int]:
        return []

    def rouse(self) -> None:
        raise NotImplementedError("it has nothing to pause")

    def peak_memory(self) -> int | None:
        return 7

    def wake_seconds(self) -> float | None:
        return 0.25

    def close(self) -> None:
        self.bench.done.append(f"{self.name} closes")


def rows_of(bench: Bench, repetitions: int = 2, **options: Any) -> Iterator[dict[str, Any]]:
    jobs = [bench.job("a"), bench.job("b")]
    return measure_jobs(jobs, [PP, TG], Procedure(repetitions, **options), lambda progress: None)


def test_repetitions_go_round_and_each_workload_is_prepared_once() -> None:
    bench = Bench()
    rows = list(rows_of(bench))
    assert [(row["engine"], row["n_prompt"], row["n_gen"]) for row in rows] == [
        *(("a", 8, 0), ("b", 8, 0), ("a", 0, 4), ("b", 0, 4))
    ]
    assert all(tuple(row) == NAMES for row in rows)
    round_of_pp = ["a prepares pp8", "a pp8", "b prepares pp8", "b pp8", "a pp8", "b pp8"]
    assert bench.done[:6] == round_of_pp
    assert sorted(bench.done[-2:]) == ["a closes", "b closes"]


def test_jobs_that_do_not_fit_together_are_loaded_again_for_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "fit_together", lambda jobs: False)
    bench = Bench()
    rows = list(rows_of(bench))
    assert len(rows) == 4
    round_of_a = ["a prepares pp8", "a pp8", "a prepares tg4", "a tg4", "a closes"]
    assert bench.done[:5] == bench.done[10:15] == round_of_a


def test_an_interruption_keeps_what_was_measured() -> None:
    bench = Bench(interrupt_at=6)  # b's second repetition of pp8
    rows = rows_of(bench)
    kept = [next(rows), next(rows)]
    assert [(row["engine"], len(row["samples_ns"])) for row in kept] == [("a", 2), ("b", 1)]
    with pytest.raises(KeyboardInterrupt):
        next(rows)
    assert sorted(bench.done[-2:]) == ["a closes", "b closes"]


def test_a_job_that_fails_is_left_out_and_the_others_go_on() -> None:
    bench = Bench(fail_at=6)  # b's second repetition of pp8
    rows = rows_of(bench)
    kept = [next(rows) for _ in range(3)]
    found = [(row["engine"], row["n_prompt"], len(row["samples_ns"])) for row in kept]
    assert found == [("a", 8, 2), ("a", 0, 2), ("b", 8, 1)]
    with pytest.raises(RowspanError, match="broken"):
        next(rows)
    assert "b tg4" not in bench.done
    assert bench.done.index("b closes") < bench.done.index("a tg4"), "nor does it run any more"


def test_engines_are_closed_when_nobody_wants_more_rows() -> None:
    bench = Bench()
    rows = rows_of(bench)
    assert len(list(islice(rows, 1))) == 1
    rows.close()  # type: ignore[attr-defined]
    assert "a closes" in bench.done


def test_a_temperature_that_cannot_be_read_cannot_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = look(Root(Path("/nonexistent")))
    monkeypatch.setattr(rounds, "look", lambda root: blind)
    with pytest.raises(UsageError, match="--cool-below"):
        next(rows_of(Bench(), cool_below=60.0))


def test_it_waits_until_all_is_cool(monkeypatch: pytest.MonkeyPatch) -> None:
    blind = look(Root(Path("/nonexistent")))
    degrees = [50.0, 70.0, 65.0]  # at the start, then twice too hot, then cool
    told: list[str] = []

    def measured(root: Root) -> Any:
        from dataclasses import replace

        return replace(blind, hottest=degrees.pop(0) if degrees else 40.0)

    monkeypatch.setattr(rounds, "look", measured)
    monkeypatch.setattr(rounds, "COOLING_PAUSE", 0.0)
    note = lambda progress: told.append(progress.text)  # noqa: E731
    list(measure_jobs([Bench().job("a")], [PP], Procedure(1, cool_below=60.0), note))
    assert any("cooling" in text for text in told)


def test_progress_tells_turns_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[RoundsProgress] = []
    list(measure_jobs([Bench().job("a")], [PP, TG], Procedure(2), told.append))
    assert {progress.total for progress in told} == {4}
    assert told[0].seconds_left is None
    assert told[-1].seconds_left is not None


def test_turns() -> None:
    a, b = Bench().job("a"), Bench().job("b")
    assert turns([a, b], [PP, TG], 2, together=True) == [(a, PP), (b, PP)] * 2 + [(a, TG), (b, TG)] * 2
    assert turns([a, b], [PP, TG], 2, together=False) == [(a, PP), (a, TG), (b, PP), (b, TG)] * 2


def test_time_left_knows_each_job_or_guesses_by_others() -> None:
    left = TimeLeft([("a", PP), ("a", PP), ("b", PP), ("b", Workload(16, 0)), ("b", TG)])
    assert left.seconds() is None
    left.note("a", PP, 2.0)  # 0.25 a token
    assert left.seconds() == pytest.approx(2.0 + 2.0 + 4.0 + 1.0)
    left.note("b", PP, 6.0)  # now 0.5 a token in the mean
    assert left.seconds() == pytest.approx(2.0 + 8.0 + 2.0)


def test_the_store_keeps_rows_as_they_are(tmp_path: Path) -> None:
    row = complete({"engine": "native", "samples_ns": [1, 2], "avg_ts": 1.5, "n_prompt": 8, "run_id": 1})
    path = tmp_path / "new" / "bench.sqlite"
    with Store(path) as store:
        assert store.new_run() == 1
        assert [store.add(row), store.add(row)] == [1, 2]
        assert store.row(2) == {"id": 2, **row}
        assert store.rows(run=1) == [{"id": 1, **row}, {"id": 2, **row}]
        assert store.rows(run=2) == []
        assert store.new_run() == 2
        with pytest.raises(UsageError, match="no row 3"):
            store.row(3)
    with sqlite3.connect(path) as database:
        kinds = database.execute("SELECT typeof(joules_per_token), typeof(avg_ts) FROM llama_bench").fetchone()
    assert kinds == ("null", "real")


def test_a_store_of_an_older_version_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "bench.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE llama_bench (id INTEGER PRIMARY KEY, engine TEXT)")
        database.execute("INSERT INTO llama_bench (engine) VALUES ('native')")
    with Store(path) as store:
        assert store.rows()[0]["engine"] == "native"
        assert store.rows()[0]["n_prompt"] is None


@pytest.mark.parametrize("content", [b"no database at all, but some text that is long enough", None])
def test_a_store_that_is_none_is_explained(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bench.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(RowspanError, match="cannot be used") as error:
        Store(path)
    assert "ROWSPAN_BENCH_DB" in error.value.fix


def test_counters_that_wrap_and_meters_that_are_absent() -> None:
    energy = Energy([Meter("package-0", lambda: 0.0, wraps_at=100.0), Meter("card 0", lambda: 0.0)])
    assert energy.joules(Reading(0.0, (90.0, 5.0)), Reading(1.0, (10.0, 7.0))) == pytest.approx(22.0)
    none = Energy([])
    assert none.joules(none.read(), none.read()) is None
    assert none.watts() is None
    assert none.names is None


def test_a_processors_meter_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "2500000"), ("max_energy_range_uj", "262143328850")):
        (folder / name).write_text(text)
    energy = meters(Root(tmp_path), [])
    assert energy.names == "package-0"
    assert energy.read().joules == (2.5,)
    (tmp_path / "not-permitted").write_text("/sys/class/powercap/*/energy_uj\n")
    assert meters(Root(tmp_path), []).names is None, "readable for root only: no meter"


def test_circumstances_of_a_recorded_machine(tmp_path: Path) -> None:
    root = Root(unpack("dual-w7900-ubuntu-p2p", tmp_path))
    fields = machine_fields(probe(root), root)
    assert fields["kernel"] == "6.8.0-45-generic"
    assert fields["governor"] == "performance (EPP performance)"
    assert fields["card_links"] == "16.0 GT/s x16, 16.0 GT/s x16"
    assert fields["boot_options"] == "quiet splash iommu=pt"
    assert fields["peer_access"] == "2 of 2 pairs by PCIe"
    assert fields["power_caps"] == "241, 241"
    assert "amdgpu" in fields["driver"]
    assert "mes" in fields["firmware"]
    state = state_fields(look(root), look(root))
    assert state["card_celsius_before"]
    assert state["cpu_celsius_before"] is None
    assert complete(fields | state)


def test_a_machine_that_tells_nothing_gives_no_zeros(tmp_path: Path) -> None:
    root = Root(tmp_path)
    fields = machine_fields(probe(root), root) | state_fields(look(root), look(root))
    told = {name: value for name, value in fields.items() if value is not None}
    assert set(told) <= {"cpu_info", "gpu_info", "cpu_cores"}


def test_the_ceiling_of_generation_is_reading_and_that_of_prompts_computing(tmp_path: Path) -> None:
    from kit.gguf_builder import TinyModel

    from rowspan.bench.engines.native_jobs import native_jobs
    from rowspan.bench.grid import Grid
    from rowspan.bench.machine.roofline import ceiling_fields
    from rowspan.plan.device import parse_devices
    from rowspan.plan.split_mode import SplitMode

    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    grid = Grid([parse_devices("cpu:0")], [SplitMode.LAYER], [0], [None], [None], [None], [None], [512], [1])
    (job,) = native_jobs({path: None}, grid, [PP, TG])
    assert job.demand is not None
    ceilings = Ceilings("1 threads", 1e9, {"f32 avx2": 1e10, "int8 avx2": 4e10})
    tg = ceiling_fields(ceilings, job, Workload(0, 4, n_concurrent=2), 10.0)
    assert (tg["ceiling"], tg["read_ceiling"]) == ("read", 1e9)
    assert tg["bytes_per_second"] == pytest.approx(5.0 * job.demand.step_bytes(2, 2))
    assert tg["operations_per_second"] == pytest.approx(10.0 * job.demand.token_operations(2))
    assert tg["ceiling_share"] == pytest.approx(tg["bytes_per_second"] / 1e9)
    pp = ceiling_fields(ceilings, job, PP, 80.0)
    assert (pp["ceiling"], pp["operations_unit"], pp["operations_ceiling"]) == ("compute", "int8 avx2", 4e10)
    assert pp["operations_per_second"] == pytest.approx(10 * job.demand.prompt_operations(8))
    assert pp["bytes_per_second"] == pytest.approx(10 * job.demand.step_bytes(4))
    assert ceiling_fields(ceilings, job, Workload(8, 4), 80.0) == {}
    assert ceiling_fields(None, job, PP, 80.0) == {}
