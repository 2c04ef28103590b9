"""benchmarks/gpu_vs_llamacpp.py: all of it but the card, on the processor and beside a stand-in for llama.cpp."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from kit import fake_llama_bench

from rowspan.errors import EngineError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("gpu", "gpu_vs_llamacpp", "peers")]:
        del sys.modules[name]


def part(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(folder: Path, *options: str) -> tuple[str, dict[str, object]]:
    """What it prints, and what it writes."""
    command = [sys.executable, str(BENCHMARKS / "gpu_vs_llamacpp.py"), "--device", "cpu:0", "--models", "tiny"]
    command += ["--folder", str(folder / "kept"), "-o", str(folder / "out.json"), "--rounds", "1", "-r", "2", *options]
    # Other tests of this process may have asked for Triton's interpreter, which would tune for minutes.
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {**inherited, "PYTHONPATH": str(BENCHMARKS.parent / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "out.json").read_text())


@pytest.mark.heavy  # 20 s: the same way as the next one's, over all rows
def test_it_measures_and_checks_all(tmp_path: Path) -> None:
    programs = fake_llama_bench.install(tmp_path / "bin")
    printed, result = run(tmp_path, "--llamacpp-binaries", str(programs), "--dtype", "float32", "--minutes", "5")
    assert result["failures"] == {}
    rows = result["rows"]
    assert isinstance(rows, list)
    assert len({row["row"] for row in rows}) == 11
    assert {row["side"]: len(row["tokens_per_second"]) for row in rows} == {"rowspan": 2, "llama.cpp": 2}
    assert {row["median"] for row in rows if row["side"] == "llama.cpp"} == {fake_llama_bench.RATE}
    outputs = result["outputs"]
    assert isinstance(outputs, dict)
    assert outputs["tokens"] == outputs["equal"] == 128
    assert outputs["largest"] < 1e-3
    lines = printed.splitlines()
    assert lines[-1].startswith("| small Q8_0 log-probabilities off")  # the table comes last
    assert max(map(len, lines)) <= 180
    assert "version: fake" in printed
    assert "µs for each of" in printed, "what two ranks of one card pay for a sum"


def test_what_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    programs = fake_llama_bench.install(tmp_path / "bin")
    (programs / "llama-batched-bench").write_text("#!/bin/sh\necho no card >&2; exit 3\n")
    options = ["--llamacpp-binaries", str(programs), "--rows", "Q8_0 4 ×,small", "--tune", "--minutes", "5"]
    printed, result = run(tmp_path, *options, "--smollm2", str(tmp_path / "missing.gguf"))
    failures = result["failures"]
    assert isinstance(failures, dict)
    assert {name: "no card" in why for name, why in failures.items()} == {
        "missing": False,
        "outputs": False,
        "two ranks on one card": False,
        "tuning": False,
        "llama.cpp: TINY Q8_0 4 × tg16 after pp8": True,
    }
    assert all(f"failed: {name}: " in printed for name in failures)
    assert "TINY Q8_0 4 × tg16 after pp8" in printed
    assert "not measured" in printed


def test_nothing_is_built_for_a_card_that_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for the processor would be timed as if they were on the card."""
    options = ["--llamacpp-source", str(tmp_path), "--folder", str(tmp_path / "kept"), "--models", "tiny"]
    monkeypatch.setattr(sys, "argv", ["gpu_vs_llamacpp.py", *options])
    program = part("gpu_vs_llamacpp")

    def fail(device: str) -> None:
        raise EngineError(f"no {device} here")

    monkeypatch.setattr(program.card_ceilings, "ask", fail)
    benchmark = program.Benchmark(part("gpu.options").parse_options(""))
    benchmark._step("ceilings", benchmark._measure_ceilings)
    assert not benchmark._step("llama.cpp", benchmark._begin_build)
    assert benchmark.result()["failures"]["llama.cpp"].endswith("is not known: EngineError: no cuda:0 here")
    assert not (tmp_path / "kept" / "llamacpp").exists()


def test_verdicts() -> None:
    rows = part("gpu.rows")
    promise = rows.Promise(1.0, 1.2, 0.6, 0.8)
    assert rows.verdict(promise, [120.0], [100.0], 0.8) == "goal"
    assert rows.verdict(promise, [120.0], [100.0], 0.79) == "floor"
    assert rows.verdict(promise, [120.0], [100.0], 0.59) == "BELOW"
    assert rows.verdict(promise, [99.0], [100.0], 0.9) == "BELOW"
    assert rows.verdict(promise, [99.0], [100.0], None) == ""
    assert rows.verdict(rows.Promise(1.0, 1.2), [1.0, 130.0, 999.0], [100.0], None) == "goal"  # of medians
    assert rows.verdict(promise, [], [100.0], 0.8) == ""


def test_a_step_that_takes_too_long_is_broken_off() -> None:
    clock = part("gpu.clock")
    began = time.monotonic()
    with pytest.raises(clock.OutOfTime), clock.limit(0.2):
        subprocess.run(["sleep", "30"], check=True)
    assert time.monotonic() - began < 10
    with pytest.raises(clock.OutOfTime, match="no time was left"), clock.limit(-1.0):
        pass
    with clock.limit(5):
        pass


def sources(folder: Path) -> Path:
    """As the package llama-cpp-python has them, of a llama.cpp that is built in no time."""
    root = folder / "package-1.0" / "vendor" / "llama.cpp"
    for inner in ("ggml", "tools/llama-bench"):
        (root / inner).mkdir(parents=True)
        (root / inner / "CMakeLists.txt").touch()
    (root / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(fake NONE)\n"
        "foreach(name llama-bench llama-batched-bench)\n"
        "  add_custom_target(${name} COMMAND ${CMAKE_COMMAND} -E echo ${LLAMA_BUILD_COMMIT} >> built)\nendforeach()\n"
    )
    archive = folder / "package-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder / "package-1.0", "package-1.0")
    return archive


@pytest.fixture
def _cmake() -> None:
    if subprocess.run(["sh", "-c", "command -v cmake"], capture_output=True, check=False).returncode:
        pytest.skip("cmake: not installed")


@pytest.mark.usefixtures("_cmake")
def test_llamacpp_is_built_once(tmp_path: Path) -> None:
    build = part("gpu.build")
    archive = sources(tmp_path)
    for _ in range(2):
        begun = build.Build(archive, tmp_path / "kept", {})
        begun.wait(60)
    (built,) = (tmp_path / "kept").rglob("built")
    assert built.read_text().split() == ["package-1.0"] * 2  # once for each program


@pytest.mark.usefixtures("_cmake")
def test_every_kind_of_device_has_a_build_of_its_own(tmp_path: Path) -> None:
    build = part("gpu.build")
    archive = sources(tmp_path)
    cuda, hip = {"cuda": "13.0", "hip": None}, {"cuda": None, "hip": "6.4"}
    kinds = [{"hip": None}, {**cuda, "architecture": "NVIDIA H200"}, {**hip, "architecture": "gfx90a:xnack-"}]
    folders = set()
    for kind in kinds:
        begun = build.Build(archive, tmp_path / "kept", kind)
        begun.wait(60)
        folders.add(begun.binaries.relative_to(tmp_path / "kept").parts[0])
    assert folders == {"cpu", "cuda-NVIDIA-H200", "hip-gfx90a"}
    assert len(list((tmp_path / "kept").rglob("built"))) == len(kinds)


@pytest.mark.usefixtures("_cmake")
def test_a_build_that_fails_says_why(tmp_path: Path) -> None:
    build, engine = part("gpu.build"), part("peers.engine")
    with pytest.raises(engine.EngineFailed, match="is not there"):
        build.Build(tmp_path / "nothing", tmp_path / "kept", {})
    with pytest.raises(engine.EngineFailed, match="holds no sources"):
        build.Build(tmp_path, tmp_path / "kept", {})
    archive = sources(tmp_path)
    begun = build.Build(archive, tmp_path / "kept", {"hip": "6.4", "architecture": "gfx1100:sramecc-"})
    begun.wait(60)
    options = (tmp_path / "kept" / "hip-gfx1100" / "build" / "CMakeCache.txt").read_text()
    assert "GGML_HIP:UNINITIALIZED=ON" in options
    assert "GPU_TARGETS:UNINITIALIZED=gfx1100" in options
    cmake = next((tmp_path / "kept" / "source").rglob("vendor/llama.cpp/CMakeLists.txt"))
    cmake.write_text('message(FATAL_ERROR "out of luck")')
    with pytest.raises(engine.EngineFailed, match="out of luck"):
        build.Build(archive, tmp_path / "kept", {}).wait(60)


@pytest.mark.usefixtures("_cmake")
def test_a_build_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    build, engine = part("gpu.build"), part("peers.engine")
    archive = sources(tmp_path)
    root = build.find_sources(archive, tmp_path)
    (root / "CMakeLists.txt").write_text("execute_process(COMMAND sleep 60)")
    begun = build.Build(root, tmp_path / "kept", {})
    with pytest.raises(engine.EngineFailed, match="not built in time"):
        begun.wait(0.5)
    while subprocess.run(["pgrep", "-s", str(begun._process.pid)], capture_output=True, check=False).returncode == 0:
        time.sleep(0.05)  # the test's time-out ends it
