"""Stored results of benchmarks, and comparisons of them. They are read anew for each page: runs end at any time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from rowspan.bench.results.compare import compare, same_work
from rowspan.bench.results.repetitions import workload_of
from rowspan.bench.results.store import Store
from rowspan.config import Paths
from rowspan.errors import UsageError

Json = dict[str, Any]
SHOWN = (
    *("id", "run_id", "test_time", "engine", "engine_version", "model_filename", "model_type", "model_size"),
    *("split_mode", "devices", "dtype", "type_k", "type_v", "kernels", "n_threads", "n_batch", "n_ubatch"),
    *("n_prompt", "n_gen", "n_depth", "n_concurrent", "avg_ts", "median_ts", "stddev_ts", "samples_ts"),
    *("cpu_info", "gpu_info", "peak_memory_bytes", "joules_per_token", "ceiling", "ceiling_share"),
)


def bench_routes() -> APIRouter:
    router = APIRouter(prefix="/console/api", include_in_schema=False)

    @router.get("/bench")
    def results() -> Json:
        """All rows, by run, the newest first."""
        path = Paths.from_env().bench
        runs: dict[int, list[Json]] = {}
        for row in _rows(path) if path.exists() else []:
            runs.setdefault(row["run_id"] or 0, []).append(_shown(row))
        return {"runs": [{"run": run, "rows": of_it} for run, of_it in sorted(runs.items(), reverse=True)]}

    @router.get("/bench/compare")
    def comparison(before: int, after: int) -> Json:
        """Two runs, row by row, those of the same work with the same options; and the rows without a counterpart."""
        with Store(Paths.from_env().bench) as store:
            first, second = store.rows(before), store.rows(after)
        if not first or not second:
            raise UsageError(f"There is no run {after if first else before}.", fix="Choose runs that are listed.")
        pairs, alone = [], []
        for row in first:
            other = same_work(row, second)
            if other is None:
                alone.append(_shown(row))
                continue
            found = compare(row, other)
            change = found.change
            pairs.append(
                {
                    "before": _shown(row),
                    "after": _shown(other),
                    "verdict": found.verdict.name.lower(),
                    "reason": found.reason,
                    "differing": {group.value: list(names) for group, names in found.differing.items()},
                    "change": change
                    and {
                        "ratio": change.ratio,
                        "low": change.low,
                        "high": change.high,
                        "confidence": change.confidence,
                        "certain": change.certain,
                    },
                }
            )
        return {"pairs": pairs, "alone": alone}

    return router


def _rows(path: Path) -> list[Json]:
    with Store(path) as store:
        return store.rows()


def _shown(row: Mapping[str, Any]) -> Json:
    return {name: row[name] for name in SHOWN} | {"test": workload_of(row).name}
