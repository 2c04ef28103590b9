"""The page stands alone and says what the rows say; charts are drawn for what there is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rowspan.bench.grid import Workload
from rowspan.bench.report.charts import charts, rate_text
from rowspan.bench.report.html_page import page, parts
from rowspan.bench.report.published import FILE, published
from rowspan.bench.report.select import sections
from rowspan.bench.results.fields import complete
from rowspan.bench.results.store import Store
from rowspan.cli.main import app
from rowspan.errors import RowspanError


def row(engine: str, rate: float, n_prompt: int = 0, n_gen: int = 0, **values: Any) -> dict[str, Any]:
    base = {"engine": engine, "engine_version": "1", "split_mode": "none", "devices": "cpu:0", "n_depth": 0}
    base |= {"n_concurrent": 1, "n_prompt": n_prompt, "n_gen": n_gen, "model_type": "llama 135M Q8_0", "n_threads": 2}
    base |= {
        "model_fingerprint": "0123456789abcdef",
        "model_filename": "/m/<b>.gguf",
        "cpu_info": "CPU & Co",
        "run_id": 1,
    }
    base |= {
        "median_ts": rate,
        "samples_ts": [rate * 0.99, rate, rate * 1.01],
        "samples_ns": [1, 1, 1],
        "test_time": "now",
    }
    return complete(base | values)


def grid() -> list[dict[str, Any]]:
    rows = []
    for engine, factor in (("native", 1.0), ("llamacpp", 0.5)):
        for depth in (0, 64):
            rows.append(row(engine, 900 * factor - depth, n_prompt=512, n_depth=depth))
            rows.append(row(engine, 100 * factor, n_gen=128, n_depth=depth))
        rows.append(row(engine, 400 * factor, n_gen=128, n_concurrent=4))
    reached = {
        "operations_per_second": 1e10,
        "bytes_per_second": 1e10,
        "read_ceiling": 2e10,
        "operations_ceiling": 1e12,
    }
    rows[1] |= {**reached, "ceiling_share": 0.5, "operations_unit": "int8 avx2", "ceiling": "read"}
    return rows


def test_rows_are_grouped_by_machine_and_model_and_the_last_counts() -> None:
    rows = [row("native", 1, n_gen=8), row("native", 2, n_gen=8), row("native", 3, n_gen=8, cpu_info="other")]
    rows.append(row("native", 4, n_gen=8, model_type="llama 1B Q8_0"))
    found = sections(rows)
    assert [(section.model, section.configurations[0].rate(Workload(0, 8))) for section in found] == [
        *(("llama 135M", 2), ("llama 135M", 3), ("llama 1B", 4))
    ]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["native none"]),
        ({"split_mode": "row"}, ["native none", "native row"]),
        ({"devices": "cpu:0/cpu:1"}, ["native none", "native none 1 of 2"]),
        ({"devices": "cpu:0/cpu:1", "split_mode": "row"}, ["native none", "native row 2 devices"]),
        ({"type_k": "f16"}, ["native none K i16", "native none K f16"]),
        ({"model_type": "llama 135M BF16"}, ["native none Q8_0", "native none BF16"]),
        ({"engine": "vllm", "type_k": None}, ["native none", "vllm none"]),
    ],
)
def test_configurations_are_named_by_what_tells_them_apart(changes: dict[str, Any], names: list[str]) -> None:
    (section,) = sections(
        [row("native", 1, n_gen=8, type_k="i16"), {**row("native", 1, n_gen=8, type_k="i16"), **changes}]
    )
    assert [one.name for one in section.configurations] == names


def test_charts_are_those_that_there_are_rows_for() -> None:
    (whole,), (bare,) = sections(grid()), sections([row("native", 1, n_gen=8)])
    assert [chart.name for chart in charts(whole)] == ["rates", "depth", "concurrency", "roofline"]
    assert [chart.name for chart in charts(bare)] == ["rates"]
    chart = charts(whole, "2-")[0]
    assert chart.png().startswith(b"\x89PNG")
    svg = chart.svg()
    assert svg.startswith("<svg")
    assert "llamacpp none" in svg, "text stays text"
    references = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    assert references <= set(re.findall(r'id="([^"]+)"', svg))


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5])
def test_no_frame_is_empty(groups: int) -> None:
    rows = [row("native", 10, n_gen=8 * (1 + n), n_depth=depth) for n in range(groups) for depth in (0, 64)]
    (section,) = sections(rows)
    (drawn,) = [chart for chart in charts(section) if chart.name == "depth"]
    assert [axis.get_visible() for axis in drawn.figure.axes] == [bool(axis.lines) for axis in drawn.figure.axes]
    assert sum(axis.get_visible() for axis in drawn.figure.axes) == groups


def test_what_stands_first_compares_most_engines_and_is_long() -> None:
    rows = [row("native", 10, n_gen=8), row("native", 11, n_gen=8, split_mode="row")]
    rows += [row(engine, 10, n_gen=n) for engine in ("native", "llamacpp") for n in (16, 128)]
    (section,) = sections(rows)
    assert section.headline(generation=True) == Workload(0, 128)


def test_the_page_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowspan.bench.report.html_page.has_matplotlib", lambda: False)
    (part,) = parts(grid())
    assert not part.charts
    text = page([part], "rowspan report")
    assert "llamacpp none" in text
    assert "<svg" not in text


def test_a_place_has_one_roof_the_highest_of_its_runs() -> None:
    rows = grid()
    names = ("bytes_per_second", "operations_per_second", "operations_unit")
    known = {name: rows[1][name] for name in names} | {"backends": "CPU"}
    rows[1] |= known
    rows[3] |= {**known, "read_ceiling": 3e10, "operations_ceiling": 0.5e12}
    rows[4] |= {**known, "read_ceiling": 1e10, "operations_ceiling": 0.5e12, "n_threads": 1}
    drawn = [charts(section)[-1].svg() for section in sections(rows)]
    texts = re.findall(r">([^<>]*(?:GB/s|operations/s, )[^<>]*)<", "".join(drawn))
    two, one = "2 threads: 1,000 G operations/s, int8 avx2", "1 thread: 500 G operations/s, int8 avx2"
    assert texts == [two, "30.0 GB/s", one, "10.0 GB/s"]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [value for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.outside += [link for link in links if link and not link.startswith("#")]
        self.outside += [tag] if tag in ("script", "link", "iframe", "img") else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else_and_says_what_the_rows_say() -> None:
    html = page(parts(grid()), "rowspan report r1")
    reader = _Links()
    reader.feed(html)
    text = " ".join(" ".join(reader.text).split())
    assert reader.outside == []
    assert "One answer: native none, 100 tokens/s (tg128, 2.00 times the next)" in text
    assert "4 answers at once: native none, 400 tokens/s (tg128 x4" in text
    assert "CPU & Co" in text
    assert "<b>.gguf (0123456789ab)" in text, "names are no markup"
    assert "With 3 repetitions no difference is sure to 95 %." in text
    assert "Elsewhere: what others have published" in text
    assert "2 x RTX 3090" in text
    assert "Only the engine differs." in text
    assert "joules" not in text


def test_what_is_published_is_whole() -> None:
    found = published()
    lines = resources.files(published.__module__.rpartition(".")[0]).joinpath(FILE).read_text("utf-8").splitlines()
    assert len(set(found)) == len(lines) - 1 > 0, "a line is lost, or there twice"
    assert [one for one in found if not (one.rig and one.source and one.date)] == []
    assert [one for one in found if one.pp_rate is None and one.tg_rate is None] == [], "it says nothing"
    assert min(rate for one in found for rate in (one.pp_rate, one.tg_rate) if rate is not None) > 0
    (gptq,) = [one for one in found if one.how.startswith("vLLM")]
    assert (gptq.model, gptq.pp_rate, gptq.tg_rate) == ("llama-3-70b GPTQ 4-bit", None, 17.0)


def test_rates_have_three_digits() -> None:
    assert [rate_text(rate) for rate in (12345.6, 123.4, 70.0, 1.234)] == ["12,346", "123", "70.0", "1.23"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWSPAN_BENCH_DB", str(tmp_path / "b.sqlite"))
    out = tmp_path / "new" / "report"
    empty = CliRunner().invoke(app, ["report", "--all", "-o", str(out)])
    assert isinstance(empty.exception, RowspanError)
    assert "no results yet" in str(empty.exception)
    with Store(tmp_path / "b.sqlite") as store:
        for each in grid():
            store.add(each)
    done = CliRunner().invoke(app, ["report", "-o", str(out)])
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in out.iterdir())
    assert names == ["concurrency.png", "depth.png", "index.html", "rates.png", "roofline.png"]
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, ["report", "-o", str(tmp_path / "file")])
    assert "cannot be written" in str(refused.exception)
