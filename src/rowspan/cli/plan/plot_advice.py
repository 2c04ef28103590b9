"""`rowspan plan … --plot FILE`: draws the forecast as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowspan.figures import new_figure, save_figure

if TYPE_CHECKING:
    from rowspan.plan.rigs.advice import Advice, RigAdvice

INCHES_PER_RIG = 1.6
COLOURS = {"none": "#8a8a8a", "layer": "#4477aa", "row": "#cc6677"}  # told apart by the colour-blind, too


def plot_advice(pieces: Sequence[Advice], path: Path) -> None:
    """Draw tg and pp of every rig and split with their intervals, in one row of charts for each quantization.

    Raises:
        UsageError: matplotlib is missing, or cannot write such a file there.
    """
    width = max(6.0, 2 * INCHES_PER_RIG * len(pieces[0].rigs))
    figure = new_figure(width, 3.6 * len(pieces))
    axes = figure.subplots(len(pieces), 2, squeeze=False)
    for row, advice in zip(axes, pieces, strict=True):
        prompt = advice.request.prompt
        for axis, what, title in zip(row, ("tg", "pp"), ("generation", f"prompt of {prompt}"), strict=True):
            _draw(axis, advice.rigs, what)
            axis.set_title(f"{advice.outline.label}, {title}", fontsize="medium")
            axis.set_ylabel("tokens/s")
    save_figure(figure, path)


def _draw(axis: Any, rigs: Sequence[RigAdvice], what: str) -> None:
    drawn: set[str] = set()
    for place, rig in enumerate(rigs):
        bars = [(option.mode.value, getattr(option.forecast, what)) for option in rig.options if option.forecast]
        bars = [(mode, rate) for mode, rate in bars if rate]
        for index, (mode, rate) in enumerate(bars):
            at = place + (index - (len(bars) - 1) / 2) * 0.3
            spread = [[rate.value - rate.low], [rate.high - rate.value]]
            label = None if mode in drawn else mode
            axis.bar(at, rate.value, 0.28, yerr=spread, color=COLOURS[mode], label=label, capsize=3)
            drawn.add(mode)
        if not bars:
            axis.text(place, 0, "does not fit", ha="center", va="bottom", fontsize="small")
    axis.set_xticks(range(len(rigs)), [rig.rig.name for rig in rigs], fontsize="small")
    axis.set_xlim(-0.6, len(rigs) - 0.4)
    if drawn:
        axis.legend(title="split", fontsize="small")
