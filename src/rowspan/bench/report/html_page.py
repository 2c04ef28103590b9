"""Writes the report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from rowspan.bench.engines.llama_bench import ENGINE as LLAMA_BENCH
from rowspan.bench.grid import Workload
from rowspan.bench.report.charts import Chart, charts, rate_text
from rowspan.bench.report.published import published
from rowspan.bench.report.select import Configuration, Section, sections
from rowspan.bench.results.change import Change
from rowspan.bench.results.compare import compare
from rowspan.bench.results.fields import FIELDS, Group
from rowspan.figures import has_matplotlib

CIRCUMSTANCES = (Group.MACHINE, Group.SYSTEM, Group.STATE)
ACCOUNTED = 0.9  # share of a client's wait; if an engine accounts for less, something else was in the way


@dataclass(frozen=True)
class Cell:
    """One figure in a table. width: length of its bar, in percent of the fastest configuration in the same test."""

    rate: str
    width: float
    share: str
    title: str
    best: bool


@dataclass(frozen=True)
class PairVerdict:
    """The comparison of two configurations in one test, in words."""

    before: str
    after: str
    test: str
    verdict: str
    reason: str
    fields: str
    change: str
    interval: str


@dataclass(frozen=True)
class Part:
    """A section in the form in which the page shows it."""

    section: Section
    headline: list[str]
    header: list[str]
    table: list[tuple[Configuration, list[Cell | None]]]
    charts: Sequence[Chart]
    verdicts: list[PairVerdict]
    circumstances: list[tuple[str, str]]
    engines: list[tuple[str, str, str, str]]
    warnings: list[str]


def parts(rows: Sequence[dict[str, Any]]) -> list[Part]:
    """All sections; without charts if matplotlib is missing."""
    found = sections(rows)
    return [_part(section, f"{number}-" if len(found) > 1 else "") for number, section in enumerate(found, 1)]


def page(shown: Sequence[Part], command: str) -> str:
    """The HTML text.

    Args:
        command: the command that made the page, so that a reader can repeat it.
    """
    import jinja2

    template = resources.files("rowspan.bench.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    rendered: str = environment.from_string(template).render(
        parts=shown,
        published=published(),
        rate_text=rate_text,
        command=command,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=importlib.metadata.version("rowspan"),
    )
    return rendered


def _part(section: Section, prefix: str) -> Part:
    workloads = section.workloads
    table = [(one, [_cell(section, one, workload) for workload in workloads]) for one in section.configurations]
    return Part(
        section=section,
        headline=_headline(section),
        header=[workload.name for workload in workloads],
        table=table,
        charts=charts(section, prefix) if has_matplotlib() else (),
        verdicts=_verdicts(section),
        circumstances=_circumstances(section),
        engines=_engines(section),
        warnings=_warnings(section),
    )


def _cell(section: Section, one: Configuration, workload: Workload) -> Cell | None:
    rate, fastest = one.rate(workload), section.fastest(workload)
    if rate is None or fastest is None:
        return None
    row, best = one.rows[workload], fastest.rate(workload) or rate
    share = "" if row["ceiling_share"] is None else f"{row['ceiling_share']:.0%}"
    samples = ", ".join(rate_text(sample) for sample in row["samples_ts"])
    title = f"{one.name}, {workload.name}: {samples} tokens/s; {row['test_time']}"
    return Cell(rate_text(rate), 100 * rate / best, share, title, one is fastest and len(section.configurations) > 1)


def _headline(section: Section) -> list[str]:
    """Sentences that say which configuration wins what."""
    lines = []
    busiest = max(
        (w for w in section.workloads if w.n_gen and not w.n_prompt), key=lambda w: w.n_concurrent, default=None
    )
    tests = [(section.headline(generation=True), "One answer"), (section.headline(generation=False), "Prompts")]
    if busiest is not None and busiest.n_concurrent > 1:
        tests.append((busiest, f"{busiest.n_concurrent} answers at once"))
    for workload, what in tests:
        fastest = section.fastest(workload) if workload else None
        if workload is None or fastest is None:
            continue
        rate = fastest.rate(workload) or 0.0
        others = [
            one.rate(workload) or 0.0 for one in section.configurations if one is not fastest and workload in one.rows
        ]
        lead = f", {rate / max(others):.2f} times the next" if others else ""
        lines.append(f"{what}: {fastest.name}, {rate_text(rate)} tokens/s ({workload.name}{lead})")
    return lines


def _verdicts(section: Section) -> list[PairVerdict]:
    """Compare each configuration with the first one, and llama-bench's own figure with its server's, in every test of
    one sequence without depth that both have; if they share no such test, in the first other one that they share.
    """
    configurations = section.configurations
    pairs = [(configurations[0], other) for other in configurations[1:]]
    own = [one for one in configurations if one.engine == LLAMA_BENCH]
    pairs += [
        (bench, served)
        for bench in own
        for served in configurations
        if served.name == bench.name.replace(LLAMA_BENCH, "llamacpp")
    ]
    found = []
    for before, after in pairs:
        common = [workload for workload in section.workloads if workload in before.rows and workload in after.rows]
        simple = [workload for workload in common if not workload.n_depth and workload.n_concurrent == 1]
        found += [_verdict(before, after, workload) for workload in simple or common[:1]]
    return found


def _verdict(before: Configuration, after: Configuration, workload: Workload) -> PairVerdict:
    comparison = compare(before.rows[workload], after.rows[workload])
    names = "; ".join(", ".join(fields) for fields in comparison.differing.values())
    word = comparison.verdict.value.split(",")[0]
    change, interval = _change(comparison.change)
    return PairVerdict(before.name, after.name, workload.name, word, comparison.reason, names, change, interval)


def _change(change: Change | None) -> tuple[str, str]:
    if change is None:
        return "", ""
    return f"{change.ratio - 1:+.1%}", f"{change.low - 1:+.1%} to {change.high - 1:+.1%} ({change.confidence:.0%})"


def _circumstances(section: Section) -> list[tuple[str, str]]:
    """Each circumstance with its value, or with its range of values; unknown values are said to be unknown."""
    rows = [row for one in section.configurations for row in one.rows.values()]
    return [
        (field.name.replace("_", " "), _values([row[field.name] for row in rows]))
        for field in FIELDS
        if field.group in CIRCUMSTANCES
    ]


def _values(values: Sequence[Any]) -> str:
    known = [value for value in values if value not in (None, "")]
    if not known:
        return "unknown"
    distinct = list(dict.fromkeys(known))
    if len(distinct) > 1 and all(isinstance(value, int | float) for value in distinct):
        return f"{min(distinct):.4g} to {max(distinct):.4g}"
    return "; ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in distinct)


def _engines(section: Section) -> list[tuple[str, str, str, str]]:
    """Each configuration's version, model file and flags."""
    return [
        (
            one.name,
            str(one.any_row["engine_version"]),
            f"{str(one.any_row['model_filename']).rpartition('/')[2]} ({str(one.any_row['model_fingerprint'])[:12]})",
            _without_folders(one.any_row["engine_flags"] or ""),
        )
        for one in section.configurations
    ]


def _without_folders(flags: str) -> str:
    """Shorten paths to their last part, since nobody needs to know where a file lies."""
    return " ".join(word.rpartition("/")[2] if word.startswith("/") else word for word in flags.split())


def _warnings(section: Section) -> list[str]:
    """Sentences that a reader must know before believing a figure."""
    rows = [(one, w, row) for one in section.configurations for w, row in one.rows.items()]
    found = []
    busy = [row["other_load"] for _, _, row in rows if (row["other_load"] or 0) > 0.1]
    if busy:
        found.append(
            f"Other programs took up to {max(busy):.0%} of the processor before {len(busy)} of {len(rows)} tests."
        )
    stolen = [row["stolen_share"] for _, _, row in rows if (row["stolen_share"] or 0) > 0.02]
    if stolen:
        found.append(f"The machine's host took up to {max(stolen):.0%} of the processor during {len(stolen)} tests.")
    beside = sum(bool(row["other_engines_running"]) for _, _, row in rows)
    if beside:
        found.append(f"Other engines were loaded and not paused during {beside} tests.")
    if any(row["throttle_events"] for _, _, row in rows):
        found.append("The processor slowed down for heat during some tests.")
    for one, workload, row in rows:
        if row["client_share"] is not None and row["client_share"] < ACCOUNTED:
            share = f"{row['client_share']:.0%} of what a client waited"
            found.append(f"{one.name}, {workload.name}: its engine accounts for {share}.")
    few = min(len(row["samples_ns"]) for _, _, row in rows)
    if few < 4:
        found.append(f"With {few} repetitions no difference is sure to 95 %.")
    return found
