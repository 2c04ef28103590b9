"""Draws a load test's latencies, each as the share of requests that took no longer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rowspan.bench.load.endpoint import EndpointAnswer
from rowspan.bench.load.summary import MEASURES, Goals, measured
from rowspan.figures import new_figure, save_figure


def draw(answers: Sequence[EndpointAnswer], goals: Goals, title: str, path: Path) -> None:
    """Write the chart as .png, .svg or .pdf.

    Raises:
        UsageError: matplotlib is missing, or cannot write such a file there.
    """
    figure = new_figure(11.6, 3.2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    for axis, (name, label) in zip(figure.subplots(1, len(MEASURES), sharey=True), MEASURES.items(), strict=True):
        values = sorted(value for one in answers for value in measured(one)[name])
        shares = [100 * (place + 1) / len(values) for place in range(len(values))]
        axis.step(values, shares, where="post", color="#4477aa", linewidth=1.8)
        if name in goals.limits:
            axis.axvline(goals.limits[name], color="#ee6677", linestyle="--", linewidth=1.2)
            axis.text(goals.limits[name], 3, " goal", color="#ee6677", fontsize=9)
        axis.set_title(f"{label}, s", loc="left", fontsize=10)
        axis.set_xlim(left=0)
        axis.set_ylim(0, 101)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("% that took no longer")
    save_figure(figure, path)
