"""The result, for people: at most some 10,000 characters, 140 columns wide."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpu.outputs import CLOSE, Outputs
from gpu.rows import Row, ceiling_share, verdict
from rowspan.bench.model_demand import Demand

Rates = Mapping[tuple[str, str], Sequence[float]]  # by the row's name and the side's
HEADER = ("", "rowspan t/s", "llama.cpp t/s", "ratio", "floor", "goal", "of ceiling", "verdict")
REASON = 400  # characters of why a step failed


def table(
    rows: Sequence[Row], rates: Rates, demands: Mapping[str, Demand], ceilings: Mapping[str, Any] | None
) -> list[list[str]]:
    """Cells of all rows. demands: by the model's name."""
    cells = [list(HEADER)]
    for row in rows:
        ours, theirs = rates.get((row.name, "rowspan"), ()), rates.get((row.name, "llama.cpp"), ())
        share = None
        of = ""
        if ours and ceilings and row.model in demands:
            known = ceilings["copy_bytes_per_second"], ceilings["product_flops"]
            share, of = ceiling_share(demands[row.model], row.figure, statistics.median(ours), *known)
        ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}" if ours and theirs else ""
        cells.append(
            [
                row.name,
                spread(ours),
                spread(theirs),
                ratio,
                promised(row.promise.floor, row.promise.floor_share),
                promised(row.promise.goal, row.promise.goal_share),
                "" if share is None else f"{share:.0%} of {of}",
                verdict(row.promise, ours, theirs, share) or "not measured",
            ]
        )
    return cells


def outputs_rows(model: str, found: Outputs | None) -> list[list[str]]:
    """Of the check against the oracle."""
    tokens, apart = f"{model} tokens like the oracle's", f"{model} log-probabilities off"
    if found is None:
        return [[name, "", "", "", "", "", "", "not checked"] for name in (tokens, apart)]
    equal = "goal" if found.equal == found.tokens else "BELOW"
    close = "goal" if found.largest <= CLOSE else "BELOW"
    return [
        [tokens, f"{found.equal} of {found.tokens}", "", "", "all", "", "", equal],
        [apart, f"{found.largest:.4f} nats (mean {found.mean:.4f})", "", "", f"{CLOSE}", "", "", close],
    ]


def text(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def spread(rates: Sequence[float]) -> str:
    """Median, and how far it goes."""
    if not rates:
        return ""
    digits = 0 if min(rates) >= 1000 else 1
    return f"{statistics.median(rates):.{digits}f} ({min(rates):.{digits}f}–{max(rates):.{digits}f}) ×{len(rates)}"


def promised(ratio: float, share: float) -> str:
    return f"{ratio:.1f}" + (f", {share:.0%}" if share else "")


def ceilings_line(ceilings: Mapping[str, Any] | None) -> str:
    if ceilings is None:
        return "ceilings: not measured"
    copy, product = ceilings["copy_bytes_per_second"] / 1e9, ceilings["product_flops"] / 1e12
    return f"ceilings: copy {copy:,.0f} GB/s (read and written), bfloat16 product {product:,.3g} TFLOP/s"


def shortened(reason: str) -> str:
    """Of a log, its end matters."""
    flat = " ".join(reason.split())
    return flat if len(flat) <= REASON else "… " + flat[-REASON:]
