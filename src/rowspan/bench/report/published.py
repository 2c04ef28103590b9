"""Results that others have published. They are of other machines and models, so they never share a chart with one's
own.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

FILE = "published-results.csv"


@dataclass(frozen=True)
class Published:
    """One published result. Rates are tokens per second; None: not given. date: when the engine was built, as far as
    told.
    """

    rig: str
    model: str
    how: str
    pp: str
    pp_rate: float | None
    tg: str
    tg_rate: float | None
    date: str
    source: str


def published() -> list[Published]:
    """All published results, sorted by model, the fastest first."""
    text = resources.files("rowspan.bench.report").joinpath(FILE).read_text(encoding="utf-8")
    found = [_read(line) for line in csv.DictReader(text.splitlines())]
    return sorted(found, key=lambda one: (one.model, -(one.tg_rate or 0.0)))


def _read(line: dict[str, str]) -> Published:
    count = "" if line["count"] == "1" else f"{line['count']} x "
    how = ", ".join(filter(None, (line["engine"], line["split"], line["published_as"])))
    scheme = line["published_as"] if line["published_as"].endswith("bit") else line["quantization"]
    return Published(
        rig=f"{count}{line['card']}",
        model=f"{line['model']} {scheme}",
        how=how.replace(f", {scheme}", ""),
        pp=f"pp{line['pp_tokens']}" if line["pp_tokens"] else "pp",
        pp_rate=_rate(line["pp_ts"]),
        tg=f"tg{line['tg_tokens']}" if line["tg_tokens"] else "tg",
        tg_rate=_rate(line["tg_ts"]),
        date=line["build"],
        source=line["source"],
    )


def _rate(text: str) -> float | None:
    return float(text) if text else None
