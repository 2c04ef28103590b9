"""docs/forecast.md: the fit, shown."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from itertools import groupby

import fit_forecast
from fit_forecast import PRIORS, PUBLISHED, Check, Row, median_error, spreads

from rowspan.plan.rigs.forecast import COLLECTIVE_SECONDS, HOST_BYTES_PER_SECOND, PEER_SHARE, Constants

INTRODUCTION = """\
# The forecast, and how well it does

`rowspan plan MODEL --gpus …` says how fast a model would run on cards that need not be there. This page is made by
`benchmarks/fit_forecast.py --write`; a test refits the constants and compares.

## The model

- A generated token takes: the bytes it must read / (the card's bandwidth × the share of it that is reached), plus an
  overhead for every layer, plus what cards tell each other. By layer, cards take turns: their times add up, with a hop
  between two. By row, each reads its part at the same time, and two collectives follow in every layer.
- A prompt takes, for every batch of 512 tokens: its operations / (the card's peak × the share of it that is reached),
  or the time of reading all weights where that is longer, plus the overheads. The peak is that of 8-bit units for
  quantized weights, of 16-bit units for others. By layer, batches follow each other through the stages; by row, the
  activations' bytes over the link are added.
- Shares and overheads differ by kind of memory, family of architectures and architecture. What was measured little
  stays near what is general: each deviation has a prior centred on none.
"""

LEFT_OUT = """\
## What is foretold of rigs that are left out

Each row is predicted by a fit that has not seen its rig (all rows of the same number of the same card); in the last
column, by one that has not seen that card at all, in any number. Errors are predicted / measured - 1.
"""


def page(rows: Sequence[Row], constants: Constants, by_rig: Sequence[Check], by_card: Sequence[Check]) -> str:
    """The whole page."""
    return "\n".join(
        [
            INTRODUCTION,
            _summary(by_rig, by_card),
            LEFT_OUT,
            _table(rows, constants, by_rig, by_card),
            _unused(),
            _constants(constants),
            _doubts(),
        ]
    )


def _summary(by_rig: Sequence[Check], by_card: Sequence[Check]) -> str:
    spread = spreads(by_rig)
    lines = ["## In short", "", "| | tg | pp |", "| --- | --- | --- |"]
    for label, checks in (("median error, rig left out", by_rig), ("median error, card left out", by_card)):
        lines.append(f"| {label} | {median_error(checks, 'tg'):.1%} | {median_error(checks, 'pp'):.1%} |")
    for key, label in (("seen", "of a known architecture"), ("unseen", "of an unknown one, or split by row")):
        tg, pp = (math.exp(spread[f"{what}/{key}"]) for what in ("tg", "pp"))
        lines.append(f"| interval, eight of ten rigs, {label} | × or / {tg:.2f} | × or / {pp:.2f} |")
    return "\n".join([*lines, ""])


def _table(rows: Sequence[Row], constants: Constants, by_rig: Sequence[Check], by_card: Sequence[Check]) -> str:
    errors = {
        name: {(id(check.row), check.what): check.error for check in checks}
        for name, checks in (("rig", by_rig), ("card", by_card))
    }
    lines = [
        "| rig | model | split, engine, build | figure | measured | forecast | error | rig left out | card left out |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for what, (tokens, rate) in row.measured.items():
            how = f"{row.split}, {row.engine}, {row.build}"
            within = row.predicted(what, constants)
            cells = [_percent(row.error(what, constants))]
            cells += [_percent(errors[name][id(row), what]) for name in ("rig", "card")]
            lines.append(
                f"| {row.rig} | {row.model} {row.quantization} | {how} | {what}{tokens} | {rate:g} | {_rate(within)} | "
                f"{' | '.join(cells)} |"
            )
    return "\n".join([*lines, ""])


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(error: float) -> str:
    return f"{math.exp(error) - 1:+.0%}"


def _unused() -> str:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    left = [
        f"- {line['count']}x {line['card']}, {line['model']} ({line['source']}): {line['left_out']}."
        for line in lines
        if line["left_out"]
    ]
    sources = [source for source, _ in groupby(sorted(line["source"] for line in lines))]
    return "\n".join(
        ["Published results that are not used:", "", *left, "", "Sources: " + "; ".join(sources) + ".", ""]
    )


def _constants(constants: Constants) -> str:
    units = {"layer": "µs", "hop": "µs", "old_row": "µs", "old_link": "GB/s"}
    scale = {"µs": 1e6, "GB/s": 1e-9, "": 1.0}
    lines = [
        "## The constants",
        "",
        "General values, and factors on them. A factor of 1.00 was moved by nothing.",
        "",
        "| constant | value |",
        "| --- | --- |",
    ]
    for name, value in sorted(constants.values.items()):
        if name in PRIORS and "/" not in name:
            unit = units.get(name, "")
            lines.append(f"| {name} | {math.exp(value) * scale[unit]:.3g} {unit} |")
        else:
            lines.append(f"| {name} | × {math.exp(value):.2f} |")
    return "\n".join([*lines, ""])


def _doubts() -> str:
    p2p, host = (COLLECTIVE_SECONDS[linked] * 1e6 for linked in (True, False))
    return f"""\
`read`: share of the nominal bandwidth. `compute`: share of the peak. `layer`: overhead of one. `old`: builds before
2025. `old_row`, `old_link`: a collective, and the bytes per second, of llama.cpp's row split of that time without peer
copies.

## What to doubt

- Row splits by today's builds are not among the published results whose models are known. Their collectives are taken
  from others' measurements of NCCL: {p2p:.0f} µs over peer copies, {host:.0f} µs by way of shared memory. Prompts
  move at {PEER_SHARE:.0%} of the link's nominal rate with peer copies, as measured on PCIe 4.0 x16 (19.9 GB/s) and
  taken to hold for other links; without at {HOST_BYTES_PER_SECOND / 1e9:.1f} GB/s. Slots are taken to be as wide
  as the card.
  The early row splits that are fitted scatter by a factor of four in prompts: links of those rigs are not known.
- One measurement in a family (MI210, Arc B580, H100) says little about the next card of it; leaving it out shows how
  little.
- Published rates come from unlike builds, drivers and clocks; the noise that the fit assumes is
  {fit_forecast.NOISE["tg"]:.0%} of a tg and {fit_forecast.NOISE["pp"]:.0%} of a pp.
- Mixtures are not among the published results: of them only generation is foretold, with the wider interval.
- A GPTQ file of 4 bits is counted as Q4_0. Windows of attention are left out of account.
"""
