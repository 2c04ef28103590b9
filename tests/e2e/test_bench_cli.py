"""`rowspan bench` and `rowspan plan` from the command line, on a tiny model, over real worker processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.gguf_builder import TinyModel

from rowspan.bench.results.store import Store

ROWSPAN = (sys.executable, "-c", "from rowspan.cli.main import main; main()")
LLAMA_BENCH_FIELDS = (
    *("build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size"),
    *("model_n_params", "n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "n_gpu_layers", "split_mode"),
    *("main_gpu", "flash_attn", "devices", "tensor_split", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns"),
    *("stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts"),
)


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("store") / "bench.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWSPAN_BENCH_DB", str(path))
        yield path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = TinyModel(scheme="Q8_0", n_heads=6, n_kv_heads=3, hidden_size=96)
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def rowspan(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ROWSPAN, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def test_layer_and_row_over_two_ranks(model: Path) -> None:
    options = (
        "-p 40 -n 2 -pg 9,1 -d 0,8 -np 1,3 -sm layer,row --devices cpu:0,cpu:1 -ts 2,1 -ub 16 -ctk f32 -r 2 -o json"
    )
    done = rowspan("bench", "-m", model, *options.split())
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)

    assert [row["split_mode"] for row in rows] == ["layer", "row"] * 12
    tests = [(row["n_prompt"], row["n_gen"], row["n_depth"], row["n_concurrent"]) for row in rows[::2]]
    assert tests == [(p, n, d, c) for c in (1, 3) for d in (0, 8) for p, n in ((40, 0), (0, 2), (9, 1))]
    for row in rows:
        assert set(LLAMA_BENCH_FIELDS) <= set(row)
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 2
        tokens = (row["n_prompt"] + row["n_gen"]) * row["n_concurrent"]
        assert row["samples_ts"] == pytest.approx([tokens * 1e9 / sample for sample in row["samples_ns"]])
        assert row["avg_ts"] == pytest.approx(sum(row["samples_ts"]) / 2)
        assert (row["n_ubatch"], row["type_k"], row["type_v"], row["dtype"]) == (16, "f32", "i16", "int8")
        assert (row["devices"], row["tensor_split"], row["backends"]) == ("cpu:0/cpu:1", "2.00/1.00", "CPU")
        assert row["engine"] == "native"
        assert row["model_size"] < row["model_n_params"] * 2
        assert row["load_seconds"] > 0
        assert row["peak_memory_bytes"] > row["weight_bytes"] > 0
        assert row["kernel"]
        assert row["other_load"] is not None
    assert "48/48" in done.stderr
    assert "tg2 @ d8" in done.stderr


def test_results_are_stored_and_a_second_run_has_the_next_number(model: Path, store: Path) -> None:
    for _ in range(2):
        assert rowspan("bench", "-m", model, *["-p", "8", "-n", "1", "-r", "1", "--no-ceilings"]).returncode == 0
    assert (
        rowspan("bench", "-m", model, *["-p", "8", "-n", "1", "-r", "1", "--no-ceilings", "--no-store"]).returncode == 0
    )
    with Store(store) as held:
        rows = held.rows()
    last = max(row["run_id"] for row in rows)
    assert [row["run_id"] for row in rows[-4:]] == [last - 1, last - 1, last, last]
    assert rows[-1]["samples_ts"] == [pytest.approx(rows[-1]["avg_ts"])]


def test_waking_starts_the_workers_anew(model: Path) -> None:
    done = rowspan(
        "bench", "-m", model, *["-p", "8", "-n", "1", "-r", "1", "--wake", "--no-ceilings", "--no-store", "-o", "json"]
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["n_prompt"] for row in rows] == [8, 0]
    assert all(0.05 < row["wake_seconds"] < 60 for row in rows)


def test_ctrl_c_keeps_what_is_done(model: Path) -> None:
    options = "-p 8 -n 200 -r 50 -o json --no-warmup --no-ceilings"
    command = [*ROWSPAN, "bench", "-m", str(model), *options.split()]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it may be ignored
    ) as bench:
        assert bench.stdout is not None
        assert bench.stderr is not None
        output = ""
        while "peak_memory_bytes" not in output:
            output += bench.stdout.readline()
        bench.send_signal(signal.SIGINT)
        output += bench.stdout.read()
        errors = bench.stderr.read()
    whole, *begun = json.loads(output)
    assert (whole["n_prompt"], len(whole["samples_ns"])) == (8, 50)
    assert all(row["n_gen"] == 200 and 0 < len(row["samples_ns"]) < 50 for row in begun)
    assert bench.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-p 8-4", "-p '8-4' is an empty range"),
        ("-p 200 -n 100 -pg 200,100", "pp200+tg100 needs a context of 300 tokens"),
        ("-p 200 -n 1 -d 100", "pp200 @ d100 needs a context of 300 tokens"),
        ("-p 0 -n 0", "nothing to measure"),
        ("-p 8 -n 1 -o xml", "--output 'xml' is not known"),
        ("-p 8 -n 1 -sm tensor", "-sm 'tensor' is not known"),
        ("-p 8 -n 1 --devices gpu:0", "'gpu:0' is not a device"),
        ("-p 8 -n 1 -sm layer --devices cpu:0,cpu:1,cpu:2", "2 layers cannot be split over 3 devices"),
        ("-p 8 -n 1 --devices cpu:0,cpu:1 -ts 1,2,3", "3 shares for 2 devices"),
        ("-p 8 -n 1 -ctk q4_0", "-ctk 'q4_0' is not known"),
        ("-p 8 -n 1 -ub 0", "-ub 0 is too small"),
    ],
)
def test_what_cannot_be_measured_is_refused(model: Path, options: str, says: str) -> None:
    done = rowspan("bench", "-m", model, *options.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert "Fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_plan_prints_who_holds_what(model: Path) -> None:
    options = ("--devices", "cpu:0,cpu:1,cpu:2,cpu:3", "-sm", "row", "-c", "64", "-ctk", "f32")
    table = rowspan("plan", model, *options)
    assert table.returncode == 0, table.stderr
    assert re.search(r"^KV heads +1 +1 +1 +0 +3$", table.stdout, re.MULTILINE)
    assert "Rank 3 (cpu:3) holds no KV" in table.stdout
    answer = json.loads(rowspan("plan", model, *options, "--json").stdout)
    assert [rank["device"] for rank in answer["holdings"]] == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]
    assert answer["totals"]["cache_per_token"] == 2 * 3 * (16 * 4 + 16 * 2 + 4)  # layers · KV heads · (K, V and scale)


def test_plan_loads_no_torch(model: Path) -> None:
    code = (
        "import sys; from rowspan.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "plan", str(model)], capture_output=True, check=False)
    assert done.returncode == 0


def test_devices_names_the_processor() -> None:
    answer = json.loads(rowspan("devices", "--json").stdout)
    assert answer["cpu"]["cores"] > 0
    assert answer["memory"]["total"] > answer["memory"]["free"] > 0
    assert answer["cpu"]["model"] in rowspan("devices").stdout
