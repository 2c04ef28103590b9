"""Measures several sequences at once on Rowspan's whole engine: scheduler, sampler and detokenizer take part."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path

from rowspan.config import EngineConfig
from rowspan.engine.engine import Engine
from rowspan.scheduler.request import SamplingParams


async def rate(engine: Engine, n_prompt: int, n_gen: int, n_depth: int, n_sequences: int) -> float:
    """Tokens that all sequences together get per second, from when the last of them has its first."""
    params = SamplingParams(max_tokens=n_gen + 1, temperature=0.0, ignore_eos=True)
    times: list[list[float]] = [[] for _ in range(n_sequences)]

    async def request(arrivals: list[float]) -> None:
        tokens = random.choices(range(engine.blueprint.spec.vocab_size), k=n_depth + n_prompt)
        async for _ in engine.stream(tokens, params):
            arrivals.append(time.perf_counter())

    await asyncio.gather(*map(request, times))
    started = max(arrivals[0] for arrivals in times)
    later = [moment for arrivals in times for moment in arrivals if moment > started]
    return len(later) / (max(later) - started)


def main() -> None:
    job = json.loads(sys.argv[1])
    figures = job["figures"]
    config = EngineConfig(
        Path(job["model"]),
        context_size=max(f["n_depth"] + f["n_prompt"] + f["n_gen"] + 1 for f in figures),
        parallel=max(f["n_sequences"] for f in figures),
        threads=job["threads"],
        prefix_reuse=False,
    )
    with Engine.open(config.with_env()) as engine:
        for figure in figures:
            asyncio.run(rate(engine, **{**figure, "n_gen": 2}))  # warm-up
        print(json.dumps({"rates": [asyncio.run(rate(engine, **figure)) for figure in figures]}))


if __name__ == "__main__":  # its workers are new processes, which import this file again
    main()
