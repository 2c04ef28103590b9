"""Stored results of benchmarks, comparisons of them, and new ones. Results are read anew for each page: runs end at any
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from rowspan.bench.results.compare import compare, same_work
from rowspan.bench.results.repetitions import workload_of
from rowspan.bench.results.store import Store
from rowspan.config import Paths
from rowspan.console.bench_job import BenchJob
from rowspan.console.served import Served, blueprint_of
from rowspan.errors import UsageError

Json = dict[str, Any]
SHOWN = (
    *("id", "run_id", "test_time", "engine", "engine_version", "model_filename", "model_type", "model_size"),
    *("split_mode", "devices", "dtype", "type_k", "type_v", "kernels", "n_threads", "n_batch", "n_ubatch"),
    *("n_prompt", "n_gen", "n_depth", "n_concurrent", "avg_ts", "median_ts", "stddev_ts", "samples_ts"),
    *("cpu_info", "gpu_info", "peak_memory_bytes", "joules_per_token", "ceiling", "ceiling_share"),
)

Numbers = Annotated[str, Field(pattern=r"^[0-9][0-9,+*-]{0,200}$")]


class BenchRequest(BaseModel):
    """What to measure, in the words of `rowspan bench`. devices: None: those of the served model."""

    model_config = ConfigDict(strict=True)

    prompt: Numbers = "512"
    generated: Numbers = "128"
    depth: Numbers = "0"
    parallel: Numbers = "1"
    split_mode: Annotated[str, Field(pattern=r"^(none|layer|row)(,(none|layer|row)){0,2}$")] = "layer"
    devices: Annotated[str, Field(pattern=r"^(cpu|cuda):\d+(,(cpu|cuda):\d+){0,63}$")] | None = None
    repetitions: Annotated[int, Field(ge=1, le=100)] = 5


def bench_routes(served: Served) -> APIRouter:
    router = APIRouter(prefix="/console/api", include_in_schema=False)
    job = BenchJob()

    @router.post("/bench/job")
    async def start(request: BenchRequest) -> Json:
        """Measure the served model, which sleeps meanwhile, unless a request wakes it."""
        blueprint = blueprint_of(served.backend)
        if blueprint is None:
            raise UsageError(
                "Only the native engine's models are measured from here.",
                fix="Use `rowspan bench` on the command line.",
            )
        job.check_idle()
        if not await served.sleep():
            raise UsageError("Requests are running.", fix="Try again when they have ended.")
        devices = request.devices or ",".join(map(str, blueprint.config.devices))
        job.start(
            [
                *(f"--model={blueprint.config.model_path}", f"--n-prompt={request.prompt}"),
                *(f"--n-gen={request.generated}", f"--n-depth={request.depth}", f"--parallel={request.parallel}"),
                *(f"--split-mode={request.split_mode}", f"--devices={devices}", f"--repetitions={request.repetitions}"),
            ]
        )
        return {"job": job.state()}

    @router.get("/bench/job")
    async def state() -> Json:
        """How the benchmark goes; and what a new one would measure unless told otherwise."""
        blueprint = blueprint_of(served.backend)
        usual = blueprint and {
            "devices": ",".join(map(str, blueprint.config.devices)),
            "split_mode": blueprint.plan.mode.value,
        }
        return {"job": job.state(), "model": served.model_name, "usual": usual}

    @router.delete("/bench/job")
    async def stop() -> Json:
        job.stop()
        return {"job": job.state()}

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
