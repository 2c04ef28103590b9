"""Statistics over a row's repetitions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rowspan.bench.grid import Workload
from rowspan.bench.job import Sample


def result_fields(workload: Workload, samples: Sequence[Sample]) -> dict[str, Any]:
    """Fields of a row: times in nanoseconds, rates in tokens per second.

    The average rate is the mean of the repetitions' rates (not tokens over mean time), and the deviation is a sample's
    (n - 1), 0 for a single repetition. client_share: of the time that a client waited, the share that the engine
    accounts for.
    """
    times = [sample.ns for sample in samples]
    rates = [workload.n_tokens * 1e9 / time for time in times]
    waited = [sample.client_ns for sample in samples if sample.client_ns is not None]
    accounted = [sample.accounted_ns for sample in samples if sample.accounted_ns is not None]
    return {
        "avg_ns": round(statistics.fmean(times)),
        "stddev_ns": round(_deviation(times)),
        "avg_ts": statistics.fmean(rates),
        "stddev_ts": _deviation(rates),
        "median_ts": statistics.median(rates),
        "samples_ns": times,
        "samples_ts": rates,
        "client_samples_ns": waited or None,
        "client_share": sum(accounted) / sum(waited) if waited else None,
    }


def workload_of(row: Mapping[str, Any]) -> Workload:
    """The workload that a row measured; rows that llama-bench itself wrote have one sequence."""
    return Workload(row["n_prompt"], row["n_gen"], row["n_depth"], row.get("n_concurrent") or 1)


def _deviation(samples: Sequence[float]) -> float:
    return statistics.stdev(samples) if len(samples) > 1 else 0.0
