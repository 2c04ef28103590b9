"""Which rows may be compared, how sure a change is, and the command's exit status."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rowspan.bench.results.change import _counts, change
from rowspan.bench.results.compare import Verdict, compare
from rowspan.bench.results.fields import Group, complete
from rowspan.bench.results.store import Store
from rowspan.cli.main import app
from rowspan.errors import RowspanError

RATES = st.lists(st.floats(1.0, 1e5), min_size=1, max_size=8)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (3, 3)])
def test_orders_are_counted(n: int, m: int) -> None:
    """By trying them all."""
    found = [0] * (n * m + 1)
    for order in set(permutations("x" * n + "y" * m)):
        found[sum(order[j] == "y" for i in range(n + m) if order[i] == "x" for j in range(i))] += 1
    assert list(_counts(n, m)) == found
    assert sum(found) == math.comb(n + m, n)


def test_the_interval_of_five_and_five_is_that_of_the_tables() -> None:
    """Critical value of U for n = m = 5, two-sided 5 %, is 2: intervals reach from the 3rd to the 3rd last ratio."""
    before, after = [1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 6.0, 12.0, 24.0, 48.0]
    found, ratios = change(before, after), sorted(new / old for new in after for old in before)
    assert (found.low, found.high) == (ratios[2], ratios[-3])
    assert found.confidence == pytest.approx(1 - 2 * 4 / 252)


@given(before=RATES, after=RATES, factor=st.floats(0.1, 10.0))
def test_a_change_follows_scale_and_is_never_surer_than_it_can_be(
    before: list[float], after: list[float], factor: float
) -> None:
    found, scaled = change(before, after), change(before, [rate * factor for rate in after])
    assert found.low <= found.ratio <= found.high
    assert scaled.ratio == pytest.approx(found.ratio * factor)
    assert 0 <= found.confidence < 1
    if len(before) < 4 and len(after) < 4:
        assert not found.certain, "three repetitions of each cannot give 95 %"


def test_no_change_is_not_certain() -> None:
    rates = [100.0, 101.0, 99.0, 100.5, 99.5]
    assert not change(rates, rates).certain
    assert change(rates, [rate * 0.8 for rate in rates]).certain


def row(**values: Any) -> dict[str, Any]:
    base = {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "n_concurrent": 1, "model_fingerprint": "f", "engine": "native"}
    base |= {"kernel": "6.8", "split_mode": "layer", "samples_ts": [100.0, 101.0, 99.0, 100.0, 100.0], "run_id": 1}
    base |= {"median_ts": 100.0, "model_type": "llama", "devices": "cpu:0", "engine_version": "1", "other_load": 0.0}
    base |= {"other_engines_paused": 0, "other_engines_running": 0}
    return complete(base | values)


@pytest.mark.parametrize(
    ("values", "verdict", "names"),
    [
        ({}, Verdict.SAME, {}),
        ({"split_mode": "row"}, Verdict.ONE_CAUSE, {Group.OPTIONS: ["split_mode"]}),
        ({"kernel": "7.0"}, Verdict.ONE_CAUSE, {Group.SYSTEM: ["kernel"]}),
        ({"kernel": None}, Verdict.ONE_CAUSE, {Group.SYSTEM: ["kernel"]}),
        (
            {"kernel": "7.0", "split_mode": "row"},
            Verdict.SEVERAL_CAUSES,
            {Group.SYSTEM: ["kernel"], Group.OPTIONS: ["split_mode"]},
        ),
        ({"n_depth": 4096}, Verdict.NO, {Group.WORK: ["n_depth"]}),
        ({"model_fingerprint": "g"}, Verdict.NO, {Group.MODEL: ["model_fingerprint"]}),
        ({"model_sha256": "abc"}, Verdict.SAME, {}),  # one side does not know it
        ({"engine": "vllm", "engine_version": "0.32"}, Verdict.ONE_CAUSE, {Group.ENGINE: ["engine"]}),
        ({"engine_version": "2"}, Verdict.ONE_CAUSE, {Group.ENGINE: ["engine_version"]}),
        ({"other_load": 0.05}, Verdict.SAME, {}),
        ({"other_engines_paused": 2}, Verdict.SAME, {}),
        ({"other_engines_running": 1}, Verdict.ONE_CAUSE, {Group.STATE: ["other_engines_running"]}),
        ({"other_load": 0.5}, Verdict.ONE_CAUSE, {Group.STATE: ["other_load"]}),
        ({"test_time": "later", "load_seconds": 9.0}, Verdict.SAME, {}),
    ],
)
def test_what_differs_decides(values: dict[str, Any], verdict: Verdict, names: dict[Group, list[str]]) -> None:
    found = compare(row(), row(**values))
    assert (found.verdict, found.differing) == (verdict, names)
    assert (found.change is None) == (verdict is Verdict.NO)
    assert all(group.value in found.reason for group in names)


def test_temperatures_and_clocks_may_differ_a_little() -> None:
    def groups(**values: Any) -> list[Group]:
        return list(compare(row(card_celsius_before="50, -", cpu_mhz_after=3000.0), row(**values)).differing)

    assert groups(card_celsius_before="55, 40", cpu_mhz_after=2900.0) == []
    assert groups(card_celsius_before="75, 40") == [Group.STATE]
    assert groups(cpu_mhz_after=2000.0) == [Group.STATE]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bench.sqlite"
    monkeypatch.setenv("ROWSPAN_BENCH_DB", str(path))
    slower = {"samples_ts": [80.0, 81.0, 79.0, 80.0, 80.0], "median_ts": 80.0, "run_id": 2}
    with Store(path) as held:
        for each in (row(), row(n_depth=4096), row(**slower), row(n_depth=64, run_id=3)):
            held.add(each)
    return path


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", *arguments])
    return done.exit_code, str(done.exception) if isinstance(done.exception, RowspanError) else done.output


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 0, "r3"),
        (("1", "3"), 0, "-20.0%"),
        (("1", "3", "--fail-below", "75"), 0, "-20.0%"),
        (("1", "3", "--fail-below", "95"), 1, "-20.0%"),
        (("3", "1", "--fail-below", "95"), 0, "+25.0%"),
        (("1", "2"), 0, "n_depth"),
        (("1", "2", "--fail-below", "5"), 1, "no"),
        (("r1", "r2"), 0, "2: native layer pp512 @ d4096 has no counterpart"),
        (("r1", "r2", "--fail-below", "75"), 1, "no counterpart"),
        (("r2", "r1", "--fail-below", "75"), 0, "+25.0%"),
        (("previous", "last"), 1, "no work in common"),
        (("1",), 1, "needs two"),
        (("1", "9"), 1, "There is no row 9"),
        (("r1", "r9"), 1, "no run r9"),
        (("one", "2"), 1, "neither a row nor a run"),
    ],
)
def test_the_command(store: Path, arguments: tuple[str, ...], status: int, says: str) -> None:
    found, output = invoke(*arguments)
    assert (found, says in output) == (status, True), output


def test_the_command_for_programs(store: Path) -> None:
    _, output = invoke("1", "3", "--json")
    (answer,) = json.loads(output)["comparisons"]
    assert answer["verdict"] == "same"
    assert answer["change"]["ratio"] == pytest.approx(0.8)
