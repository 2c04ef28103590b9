"""When requests are sent. A closed loop keeps so many going: the most that a server can do. An open loop sends them at
times of its own, whatever the server does, as people do: it shows how long they wait. Gaps are exponential (a Poisson
process): arrivals come in clusters, and a server that is nearly busy shows it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rowspan.bench.load.endpoint import EndpointAnswer, EndpointError

Ask = Callable[[str], Awaitable[EndpointAnswer]]


@dataclass
class LoadOutcome:
    """What became of the requests so far."""

    answers: list[EndpointAnswer] = field(default_factory=list)
    failures: list[EndpointError] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.answers) + len(self.failures)


async def closed_loop(ask: Ask, prompts: Sequence[str], clients: int, outcome: LoadOutcome) -> None:
    """So many clients, each of which sends its next request when it has its answer."""
    waiting = iter(prompts)

    async def client() -> None:
        for prompt in waiting:
            await _one(ask, prompt, outcome)

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(ask: Ask, prompts: Sequence[str], rate: float, outcome: LoadOutcome, seed: int = 0) -> None:
    """So many requests a second in the mean, at moments that the seed decides."""
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
