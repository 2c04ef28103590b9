"""Decides when a load test's requests are sent.

A closed loop keeps a fixed number of requests going: this shows the most that a server can do. An open loop sends
requests at times of its own, whatever the server does, as people do: this shows how long they wait. Its gaps are
exponential (a Poisson process): arrivals come in clusters, and a server that is nearly busy shows it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rowspan.bench.load.endpoint import EndpointAnswer, EndpointError

Ask = Callable[[str], Awaitable[EndpointAnswer]]


@dataclass
class LoadOutcome:
    """Answers and failures of the requests so far."""

    answers: list[EndpointAnswer] = field(default_factory=list)
    failures: list[EndpointError] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.answers) + len(self.failures)


async def closed_loop(ask: Ask, prompts: Sequence[str], clients: int, outcome: LoadOutcome) -> None:
    """Run `clients` clients, each of which sends its next request once it has its answer."""
    waiting = iter(prompts)

    async def client() -> None:
        for prompt in waiting:
            await _one(ask, prompt, outcome)

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(ask: Ask, prompts: Sequence[str], rate: float, outcome: LoadOutcome, seed: int = 0) -> None:
    """Send `rate` requests a second on average, at moments that the seed determines."""
    clock = asyncio.get_running_loop().time
    start = clock()
    async with asyncio.TaskGroup() as group:
        for prompt, at in zip(prompts, arrivals(len(prompts), rate, seed), strict=True):
            await asyncio.sleep(max(0.0, start + at - clock()))
            group.create_task(_one(ask, prompt, outcome))


def arrivals(count: int, rate: float, seed: int = 0) -> list[float]:
    """Moments of a Poisson process, in seconds from its beginning."""
    chance, moment, found = random.Random(seed), 0.0, []
    for _ in range(count):
        moment += chance.expovariate(rate)
        found.append(moment)
    return found


async def _one(ask: Ask, prompt: str, outcome: LoadOutcome) -> None:
    try:
        outcome.answers.append(await ask(prompt))
    except EndpointError as failure:
        outcome.failures.append(failure)
