"""Draws the report's charts once: as SVG for the page, as PNG for everything else."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rowspan.bench.grid import Workload
from rowspan.bench.report.select import Configuration, Section
from rowspan.figures import DPI, matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Paul Tol's "bright": told apart by the colour-blind; with markers and line styles also in grey print.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "rowspan",  # the same chart is the same file
}
WIDTH = 9.2  # inches across the page


@dataclass(frozen=True)
class Chart:
    """A chart to be shown. name: its file's name. title, caption: texts on the page. figure: matplotlib's object."""

    name: str
    title: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """The chart as an SVG element to stand in HTML, as wide as the page allows."""
        with _style():
            out = io.StringIO()
            self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(<svg [^>]*?)width="[^"]*"', r"\1", text, count=1)
        text = re.sub(r'(<svg [^>]*?)height="[^"]*"', r'\1role="img" aria-label="' + self.title + '"', text, count=1)
        # Ids are shared by the whole page, which has several charts.
        return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{self.name}-", text)

    def png(self) -> bytes:
        with _style():
            out = io.BytesIO()
            self.figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
        return out.getvalue()


def charts(section: Section, prefix: str = "") -> list[Chart]:
    """All charts that the section has rows for.

    Args:
        prefix: text that the charts' names begin with.

    Raises:
        UsageError: matplotlib is missing.
    """
    with _style():
        return list(_charts(section, _Palette(section.configurations), prefix))


def _charts(section: Section, palette: _Palette, prefix: str) -> Iterator[Chart]:
    pp, tg = section.headline(generation=False), section.headline(generation=True)
    if pp or tg:
        caption = "Medians, one sequence; the thin line reaches from the slowest to the fastest repetition."
        figure = _bars(section, [workload for workload in (pp, tg) if workload], palette)
        yield Chart(f"{prefix}rates", "Prompts and generation", caption, figure)
    depths = _series(section, lambda w: w.n_depth, lambda w: (w.n_prompt, w.n_gen, w.n_concurrent))
    if depths:
        caption = "What is already in the context makes every further token dearer."
        yield Chart(
            f"{prefix}depth", "With depth", caption, _curves(section, depths, palette, "tokens in the cache before")
        )
    loads = _series(section, lambda w: w.n_concurrent, lambda w: (w.n_prompt, w.n_gen, w.n_depth))
    if loads:
        caption = "Tokens per second of all sequences together."
        figure = _curves(section, loads, palette, "sequences at once", log=True)
        yield Chart(f"{prefix}concurrency", "With concurrency", caption, figure)
    if any(row["operations_per_second"] for one in section.configurations for row in one.rows.values()):
        caption = (
            "The roof is the most that this machine was measured to read and to compute; a point is the least that a "
            "result must have read and computed. Generation (open) hangs below the slope of reading, prompts "
            "(filled) below the flat of computing; several sequences move to the right."
        )
        yield Chart(f"{prefix}roofline", "Roofline", caption, _roofline(section, palette))


class _Palette:
    """Gives each configuration the same colour and marker in every chart."""

    def __init__(self, configurations: Sequence[Configuration]) -> None:
        self._place = {one.name: place for place, one in enumerate(configurations)}

    def colour(self, one: Configuration) -> str:
        return COLOURS[self._place[one.name] % len(COLOURS)]

    def marker(self, one: Configuration) -> str:
        return MARKERS[self._place[one.name] % len(MARKERS)]


def _bars(section: Section, workloads: Sequence[Workload], palette: _Palette) -> Figure:
    tallest = max(sum(w in one.rows for one in section.configurations) for w in workloads)
    figure = new_figure(WIDTH, 1.0 + 0.34 * max(3, tallest))
    for axis, workload in zip(figure.subplots(1, len(workloads), squeeze=False)[0], workloads, strict=True):
        measured = [one for one in section.configurations if workload in one.rows]
        for place, one in enumerate(measured):
            rates, rate = one.rows[workload]["samples_ts"], one.rate(workload) or 0.0
            axis.barh(place, rate, 0.72, color=palette.colour(one))
            axis.plot([min(rates), max(rates)], [place, place], color="#222222", linewidth=1.2)
            aside = {"textcoords": "offset points", "xytext": (5, 0), "va": "center", "fontsize": 9}
            axis.annotate(rate_text(rate), (max(rates), place), **aside)
        axis.set_yticks(range(len(measured)), [one.name for one in measured])
        axis.invert_yaxis()
        axis.margins(x=0.16)
        axis.set_xlim(left=0)
        axis.grid(visible=False, axis="y")
        axis.set_title(f"{workload.name}, tokens/s")
    return figure


def _series(section: Section, along: Any, same: Any) -> dict[tuple[int, ...], list[Workload]]:
    """Workloads of pure prompts or pure generation that differ along one axis only, if there are several."""
    found: dict[tuple[int, ...], list[Workload]] = {}
    for workload in section.workloads:
        if not (workload.n_prompt and workload.n_gen):
            found.setdefault(same(workload), []).append(workload)
    return {key: sorted(group, key=along) for key, group in found.items() if len({along(w) for w in group}) > 1}


def _curves(
    section: Section,
    groups: Mapping[tuple[int, ...], Sequence[Workload]],
    palette: _Palette,
    label: str,
    *,
    log: bool = False,
) -> Figure:
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = new_figure(WIDTH, 3.3 * lines)
    axes = iter(figure.subplots(lines, columns, squeeze=False).flat)
    for workloads, axis in zip(groups.values(), axes, strict=False):  # takes no axis too many: see below
        for one in section.configurations:
            points = [(w.n_concurrent if log else w.n_depth, one.rate(w)) for w in workloads if w in one.rows]
            if points:
                style = {"color": palette.colour(one), "marker": palette.marker(one), "label": one.name}
                axis.plot(*zip(*points, strict=True), linewidth=1.6, markersize=6, **style)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(label)
        places = sorted({w.n_concurrent if log else w.n_depth for w in workloads})
        if log:
            axis.set_xscale("log", base=2)
        axis.set_xticks(places, [str(place) for place in places], minor=False)
        axis.set_title(f"{_title(workloads[0], log)}, tokens/s")
    for axis in axes:  # frames without a group
        axis.set_visible(False)
    _legend(figure)
    return figure


def _title(workload: Workload, of_concurrency: bool) -> str:
    if of_concurrency:
        return Workload(workload.n_prompt, workload.n_gen, workload.n_depth).name
    return Workload(workload.n_prompt, workload.n_gen, 0, workload.n_concurrent).name


def _roofline(section: Section, palette: _Palette) -> Figure:
    figure = new_figure(WIDTH, 4.6)
    axis = figure.subplots()
    rows = [(one, row) for one in section.configurations for row in one.rows.values() if row["operations_per_second"]]
    intensities = [row["operations_per_second"] / row["bytes_per_second"] for _, row in rows]
    low, high = min(intensities) / 3, max(intensities) * 3
    for (where, unit), (read, compute) in _roofs([row for _, row in rows]).items():
        ridge = compute / read
        xs = sorted({low, min(max(ridge, low), high), high})
        axis.plot(xs, [min(read * x, compute) for x in xs], color="#444444", linewidth=1.4)
        axis.text(
            high,
            compute,
            f"{where}: {compute / 1e9:,.0f} G operations/s, {unit}",
            ha="right",
            va="bottom",
            fontsize=8,
            in_layout=False,
        )
        axis.text(
            low * 1.15,
            read * low * 1.5,
            f"{read / 1e9:.1f} GB/s",
            rotation=32,
            fontsize=8,
            va="bottom",
            in_layout=False,
        )
    for (one, row), intensity in zip(rows, intensities, strict=True):
        fill = "none" if row["n_gen"] else palette.colour(one)
        style: dict[str, Any] = {"facecolors": fill, "edgecolors": palette.colour(one), "marker": palette.marker(one)}
        axis.scatter([intensity], [row["operations_per_second"]], s=42, linewidths=1.4, label=one.name, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations for each byte read")
    axis.set_ylabel("operations/s")
    _legend(figure)
    return figure


def _roofs(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[float, float]]:
    """The highest ceilings that any run measured, by place and unit: bytes and operations per second."""
    roofs: dict[tuple[str, str], tuple[float, float]] = {}
    for row in rows:
        threads = "1 thread" if row["n_threads"] == 1 else f"{row['n_threads']} threads"
        where = threads if row["backends"] == "CPU" else row["devices"].replace("/", ", ")
        read, compute = roofs.get((where, row["operations_unit"]), (0.0, 0.0))
        ceilings = max(read, row["read_ceiling"]), max(compute, row["operations_ceiling"])
        roofs[where, row["operations_unit"]] = ceilings
    return roofs


def _legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=4, fontsize=9)


def rate_text(rate: float) -> str:
    """A rate in three digits: "1,234", "123", "12.3", "1.23"."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def _style() -> Any:
    return matplotlib().rc_context(STYLE)
