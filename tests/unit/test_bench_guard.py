"""The guard's rule, its file, and one real measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.gguf_builder import TinyModel
from kit.recorded_rig import unpack
from typer.testing import CliRunner

from rowspan.bench.results.change import change
from rowspan.bench.run.guard import (
    LEAST_CHANGE,
    Baseline,
    changed,
    circumstances,
    compare,
    load,
    measure,
    place_name,
    places,
    save,
    unsteady,
)
from rowspan.cli.main import app
from rowspan.config import Paths
from rowspan.errors import RowspanError, UsageError
from rowspan.rig.probe.rig import probe
from rowspan.rig.root import Root

STEADY = Baseline("2024-05-01T10:00:00Z", "abc", {"kernel": "6.8"}, {"pp256": [100.0, 101.0, 99.0, 100.0, 100.0]})


def later(rates: list[float]) -> Baseline:
    return replace(STEADY, rates={"pp256": rates})


def verdict(before: Baseline, after: Baseline) -> str:
    (one,) = compare(before, after)
    assert not (one.slower and one.faster)
    assert one.slower == (one.verdict == "SLOWER")
    return one.verdict


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([96.0] * 5, "same"),  # less than 5 %
        ([94.0] * 5, "SLOWER"),
        ([106.0] * 5, "faster"),
        ([100.0, 100.0, 100.0, 20.0, 30.0], "same"),  # single slow repetitions
        ([60.0, 90.0, 75.0, 110.0, 80.0], "too unsteady to tell"),
        ([50.0, 50.0, 51.0, 49.0, 50.0], "SLOWER"),
    ],
)
def test_a_change_counts_beyond_a_share_and_beyond_the_spread(rates: list[float], expected: str) -> None:
    assert verdict(STEADY, later(rates)) == expected


@given(rates=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=9), factor=st.floats(0.01, 100.0))
def test_the_same_rates_are_no_change_and_threshold_follows_scale(rates: list[float], factor: float) -> None:
    before = later(rates)
    assert verdict(before, before) in ("same", "too unsteady to tell")
    assert unsteady({"a": rates, "b": [rate * factor for rate in rates]}) in ([], ["a", "b"])
    (one,) = compare(before, later([rate * factor for rate in rates]))
    assert one.change == pytest.approx(factor - 1)
    assert one.threshold >= LEAST_CHANGE


@given(before=st.lists(st.floats(90.0, 110.0), min_size=5, max_size=9), factor=st.floats(0.5, 2.0))
def test_what_counts_is_what_is_certain_and_beyond_the_threshold(before: list[float], factor: float) -> None:
    after = [rate * factor for rate in before]
    (one,), found = compare(later(before), later(after)), change(before, after)
    assert one.change == found.ratio - 1
    assert (one.slower or one.faster) == (found.certain and abs(found.ratio - 1) > LEAST_CHANGE)
    if abs(abs(one.change) - one.threshold) > 1e-5:
        assert (one.slower or one.faster) == (abs(one.change) > one.threshold)


def test_too_few_repetitions_are_no_proof() -> None:
    assert verdict(later([100.0] * 3), later([50.0] * 3)) == "too unsteady to tell"
    assert verdict(later([100.0] * 4), later([50.0] * 4)) == "SLOWER"


def test_only_what_compares_is_compared() -> None:
    with pytest.raises(UsageError, match="another model"):
        compare(STEADY, replace(STEADY, model="other"))
    with pytest.raises(UsageError, match="other workloads"):
        compare(STEADY, replace(STEADY, rates={"tg1": [1.0]}))


def test_changed_circumstances_are_named(tmp_path: Path) -> None:
    folder = unpack("dual-r9700-idle-burn", tmp_path)
    before = circumstances(probe(Root(folder)), "0.1.0")
    (folder / "proc/sys/kernel/osrelease").write_text("7.2.0")
    (folder / "sys/module/amdgpu/version").write_text("6.16.13")
    (folder / "sys/bus/pci/devices/0000:03:00.0/fw_version/mes_fw_version").write_text("0x0000008b")
    after = circumstances(probe(Root(folder)), "0.2.0")
    words = changed(replace(STEADY, circumstances=before), replace(STEADY, circumstances=after))
    assert words == [
        "0000:03:00.0 driver: amdgpu (in-tree) → amdgpu 6.16.13 (DKMS)",
        "0000:03:00.0 firmware mes: 0x00000083 → 0x0000008b",
        "0000:23:00.0 driver: amdgpu (in-tree) → amdgpu 6.16.13 (DKMS)",
        "engine: 0.1.0 → 0.2.0",
        "kernel: 6.14.0-29-generic → 7.2.0",
    ]


def test_a_baseline_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new/baseline.json"
    save(STEADY, path)
    assert load(path) == STEADY
    assert [entry.name for entry in path.parent.iterdir()] == ["baseline.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"saved": "", "model": "", "circumstances": {}, "rates": {"a": []}}']
)
def test_a_damaged_baseline_is_explained(text: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        load(path)
    with pytest.raises(UsageError, match="no baseline yet") as missing:
        load(tmp_path / "none.json")
    assert "--baseline save" in missing.value.fix


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RowspanError, match="could not be written"):
        save(STEADY, tmp_path / "file/baseline.json")


def test_where_it_is_kept() -> None:
    assert Paths.from_env({"ROWSPAN_BASELINE": "/x/b.json"}).baseline == Path("/x/b.json")
    assert Paths.from_env({}).baseline.name == "baseline.json"


def test_every_kept_file_may_be_elsewhere() -> None:
    names = {"ROWSPAN_BASELINE": "/a", "ROWSPAN_BENCH_DB": "/b", "ROWSPAN_PROBES": "/c", "ROWSPAN_TUNING": "~/d"}
    names["ROWSPAN_CONVERSATIONS"] = "/e"
    found = Paths.from_env(names)
    assert (found.baseline, found.bench, found.probes) == (Path("/a"), Path("/b"), Path("/c"))
    assert (found.tuning, found.conversations) == (Path.home() / "d", Path("/e"))
    assert Paths.from_env(dict.fromkeys(names, "")) == Paths.from_env({}), "empty is not set"


def test_a_real_measurement(tmp_path: Path) -> None:
    told: list[str] = []
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    model, rates = measure(path, None, 0, told.append)
    assert model
    assert told
    assert set(rates) == {"pp256", "tg32"}
    assert all(len(samples) == 7 and min(samples) > 0 for samples in rates.values())


def test_cards_are_measured_one_by_one_and_together(tmp_path: Path) -> None:
    names = [place_name(place) for place in places(2)]
    assert names == ["", " cuda:0", " cuda:1", " cuda:0,cuda:1 layer", " cuda:0,cuda:1 row"]
    assert [place_name(place) for place in places(1)] == ["", " cuda:0"]
    told: list[str] = []
    path = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    _, rates = measure(path, None, 1, told.append)
    if not torch.cuda.is_available():
        assert set(rates) == {"pp256", "tg32"}
        assert any("cuda:0 is not measured: " in line for line in told), "what is left out is told of"


def test_a_card_that_is_gone_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    monkeypatch.setenv("ROWSPAN_BASELINE", str(tmp_path / "b.json"))
    both = {"pp256": [100.0] * 7, "pp256 cuda:1": [900.0] * 7}
    monkeypatch.setattr("rowspan.cli.bench.baseline.measure", lambda *_: ("a model", both))
    assert CliRunner().invoke(app, ["doctor", "--baseline", "save", "-m", str(model)]).exit_code == 0
    monkeypatch.setattr("rowspan.cli.bench.baseline.measure", lambda *_: ("a model", {"pp256": both["pp256"]}))
    checked = CliRunner().invoke(app, ["doctor", "--baseline", "check", "-m", str(model)])
    assert checked.exit_code == 1
    assert "pp256 cuda:1: measured then, and not now" in checked.output


def test_a_model_that_is_not_here_yet_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWSPAN_CACHE", str(tmp_path))
    error = CliRunner().invoke(app, ["doctor", "--baseline", "save"]).exception
    assert isinstance(error, RowspanError)
    assert "smollm2:135m, which this measures with, has not been fetched yet" in str(error)
    assert "rowspan pull smollm2:135m" in str(error)


@pytest.mark.parametrize(("now", "word", "status"), [(50.0, "SLOWER", 1), (200.0, "faster", 0), (101.0, "same", 0)])
def test_the_command_compares_with_what_it_saved(
    now: float, word: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measuring(rate: float) -> Callable[..., tuple[str, dict[str, list[float]]]]:
        return lambda *_: ("a model", {"pp256": [rate] * 7, "tg32": [rate] * 7})

    model = TinyModel(scheme="Q8_0").write(tmp_path / "m.gguf")
    monkeypatch.setattr("rowspan.hub.DEFAULT_MODEL", str(model))
    monkeypatch.setenv("ROWSPAN_BASELINE", str(tmp_path / "b.json"))
    monkeypatch.setattr("rowspan.cli.bench.baseline.measure", measuring(100.0))
    saved = CliRunner().invoke(app, ["doctor", "--baseline", "save"])
    assert saved.exit_code == 0
    assert "--baseline check" in saved.output
    baseline = load(tmp_path / "b.json")
    save(replace(baseline, circumstances={**baseline.circumstances, "kernel": "5.4"}), tmp_path / "b.json")
    monkeypatch.setattr("rowspan.cli.bench.baseline.measure", measuring(now))
    checked = CliRunner().invoke(app, ["doctor", "--baseline", "check"])
    assert checked.exit_code == status
    assert word in checked.output
    assert "kernel: 5.4 → " in checked.output
