"""Statistics, and the formats that carry them."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowspan.bench.grid import Workload
from rowspan.bench.job import Sample
from rowspan.bench.results.fields import NAMES, SAMPLES, complete
from rowspan.bench.results.formats import FORMATS
from rowspan.bench.results.markdown import Expected
from rowspan.bench.results.repetitions import result_fields, workload_of


def fields(samples: list[int], n_tokens: int) -> dict[str, Any]:
    return result_fields(Workload(n_tokens, 0), [Sample(ns) for ns in samples])


ROW = complete(
    {
        "cpu_info": 'A "quoted" CPU, with a comma',
        "backends": "CPU",
        "model_type": "llama 135M Q4_1",
        "model_size": 98_000_000,
        "model_n_params": 134_515_008,
        "n_ubatch": 512,
        "n_threads": 2,
        "type_k": "f32",
        "type_v": "f32",
        "split_mode": "row",
        "main_gpu": 0,
        "devices": "cpu:0/cpu:1",
        "tensor_split": "0.00",
        "n_prompt": 512,
        "n_gen": 0,
        "n_depth": 0,
        "n_concurrent": 1,
        "engine": "native",
        "engine_version": "0.1.0",
        "dtype": "float32",
        "model_filename": "it's a model.gguf",
        "ceiling_share": 0.25,
        **fields([2_000_000_000, 4_000_000_000], 512),
    }
)


def deviation(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


@given(samples=st.lists(st.integers(1_000, 10**12), min_size=1, max_size=20), n_tokens=st.integers(1, 10**5))
def test_statistics_are_those_of_the_repetitions(samples: list[int], n_tokens: int) -> None:
    row = fields(samples, n_tokens)
    rates = n_tokens / (np.array(samples) * 1e-9)
    assert row["avg_ns"] == pytest.approx(np.mean(samples), rel=1e-9, abs=1)
    assert row["stddev_ns"] == pytest.approx(deviation(np.array(samples)), rel=1e-6, abs=1)
    assert row["avg_ts"] == pytest.approx(np.mean(rates))
    assert row["stddev_ts"] == pytest.approx(deviation(rates), rel=1e-6, abs=1e-6 * rates.max())
    assert row["median_ts"] == pytest.approx(np.median(rates))
    assert row["samples_ns"] == samples
    assert row["samples_ts"] == pytest.approx(rates.tolist())


def test_the_average_rate_is_the_mean_of_rates() -> None:
    row = fields([1_000_000_000, 3_000_000_000], 300)
    assert row["avg_ts"] == pytest.approx(200)  # not 600 tokens / 4 s = 150
    assert row["avg_ns"] == 2_000_000_000


def test_a_rate_is_of_all_sequences_together() -> None:
    row = result_fields(Workload(0, 10, n_concurrent=4), [Sample(1_000_000_000)])
    assert row["avg_ts"] == pytest.approx(40)


def test_what_a_client_waited_is_set_against_what_the_engine_accounts_for() -> None:
    row = result_fields(Workload(0, 10), [Sample(50, client_ns=100, accounted_ns=90), Sample(50, 100, 80)])
    assert (row["client_samples_ns"], row["client_share"]) == ([100, 100], pytest.approx(0.85))
    assert fields([5], 1)["client_share"] is None


def test_a_row_has_every_field_and_no_other() -> None:
    assert tuple(ROW) == NAMES
    assert ROW["joules_per_token"] is None
    with pytest.raises(KeyError, match="no_such"):
        complete({"no_such": 1})
    assert workload_of(ROW) == Workload(512, 0)
    assert workload_of({"n_prompt": 0, "n_gen": 8, "n_depth": 4}) == Workload(0, 8, 4)


def written(name: str, rows: int, optional: tuple[str, ...] = (), jobs: Sequence[dict[str, Any]] = (ROW,)) -> str:
    """So many rows of each job."""
    out = io.StringIO()
    form = FORMATS[name](out, Expected(optional, jobs, [workload_of(ROW).name]))
    for _ in range(rows):
        for job in jobs:
            form.add(job)
    form.finish()
    return out.getvalue()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_json_is_whole_whenever_it_is_finished(rows: int) -> None:
    assert json.loads(written("json", rows)) == [ROW] * rows


def test_json_lines() -> None:
    assert [json.loads(line) for line in written("jsonl", 2).splitlines()] == [ROW, ROW]


def test_rows_appear_at_once() -> None:
    out = io.StringIO()
    form = FORMATS["jsonl"](out, Expected((), [ROW], ["pp512"]))
    form.add(ROW)
    assert json.loads(out.getvalue()) == ROW


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", 2))))
    assert len(rows) == 2
    assert rows[0] == {name: "" if value is None else str(value) for name, value in ROW.items() if name not in SAMPLES}


def test_sql_runs_in_sqlite() -> None:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    for _ in range(2):  # a second run adds to the table
        database.executescript(written("sql", 2))
    rows = [dict(row) for row in database.execute("SELECT * FROM llama_bench")]
    assert rows == [{name: value for name, value in ROW.items() if name not in SAMPLES}] * 4
    assert database.execute("SELECT typeof(avg_ts), typeof(n_prompt) FROM llama_bench").fetchone()[:] == (
        "real",
        "integer",
    )


def test_markdown_is_an_aligned_table() -> None:
    other = {**ROW, "split_mode": "none", "dtype": "int8", "avg_ts": 12345.6, "ceiling_share": None}
    above, _, *lines = written("md", 1, ("dtype", "main_gpu"), (ROW, other)).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert table[0] == ["sm", "dtype", "test", "t/s", "ceiling"]
    assert set("".join(table[1])) == {"-", ":"}
    assert table[2:] == [
        ["row", "float32", "pp512", "192.00 ± 90.51", "25%"],
        ["none", "int8", "pp512", "12346 ± 91", ""],
    ]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[-1].startswith("native 0.1.0; A ")
    assert above == "model: llama 135M Q4_1 (93.5 MiB), engine: native, devices: cpu:0/cpu:1, mg: 0"


def test_markdown_of_all_that_may_differ_fits_a_terminal() -> None:
    jobs = [
        {
            **ROW,
            "engine": "llama-bench",
            "model_type": model,
            "split_mode": mode,
            "devices": devices,
            "model_size": size,
        }
        for model, size in (("llama 135M Q8_0", 145 << 20), ("llama 8.0B Q4_K", 5 << 30))
        for mode, devices in (("none", "cpu:0"), ("layer", "cuda:0/cuda:1"))
    ]
    lines = written("md", 1, (), [*jobs, {**ROW, "type_k": None}]).splitlines()
    assert lines[0].startswith("llama 135M Q8_0: 145.0 MiB, llama 8.0B Q4_K: 5.0 GiB, llama 135M Q4_1: 93.5 MiB")
    assert max(map(len, lines)) <= 100


def test_nothing_measured_prints_nothing() -> None:
    assert {written(name, 0) for name in ("md", "jsonl", "csv", "sql")} == {""}
