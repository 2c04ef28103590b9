"""Runs a load test, from the first look at the endpoint to the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.bench.load.drive import LoadOutcome, closed_loop, open_loop
from rowspan.bench.load.endpoint import Endpoint, EndpointAnswer, EndpointError
from rowspan.bench.load.summary import Goals, summary, usage_problems
from rowspan.bench.machine.energy import meters
from rowspan.errors import UsageError
from rowspan.rig.probe.rig import probe_cards
from rowspan.rig.root import Root

CHECK_TOKENS = 16
REFUSED = "answers with status 4"


@dataclass(frozen=True)
class Test:
    """The parameters of a load test.

    body: fields of every request, besides model and prompt.
    clients: number of clients of the closed loop.
    rate: requests per second of the open loop; None: run the closed loop.
    timeout: seconds.
    """

    __test__ = False  # pytest must not collect this class

    url: str
    model: str | None
    key: str | None
    prompts: Sequence[str]
    body: Mapping[str, Any]
    clients: int
    rate: float | None
    chat: bool
    timeout: float
    seed: int


@dataclass(frozen=True)
class Result:
    """The outcome of a load test.

    usage_problems: see `summary.usage_problems`.
    joules: energy that this machine used during the test; None without a meter.
    interrupted: Ctrl-C ended it early.
    """

    model: str
    outcome: LoadOutcome
    usage_problems: Sequence[str]
    joules: float | None
    interrupted: bool = False

    def summary(self, goals: Goals, *, is_local: bool) -> dict[str, Any]:
        """Summarize the result. is_local: the endpoint runs on this machine, so that this machine's meters measure
        it.
        """
        found = summary(self.outcome, goals, self.joules if is_local else None)
        return {
            "model": self.model,
            "interrupted": self.interrupted,
            **found,
            "usage_problems": list(self.usage_problems),
        }


async def run(test: Test, on_progress: Callable[[int, str], None]) -> Result:
    """Run the whole test. Ctrl-C ends it early and keeps the answers so far.

    Raises:
        EndpointError: the endpoint does not answer as one should, or every request failed.
        UsageError: it is not clear which model is meant.
    """
    async with Endpoint(test.url, test.key, test.timeout) as endpoint:
        model = _choose(test.model, await endpoint.models(), endpoint.base)

        async def ask(prompt: str, more: Mapping[str, Any] | None = None) -> EndpointAnswer:
            words = {"messages": [{"role": "user", "content": prompt}]} if test.chat else {"prompt": prompt}
            answer = await endpoint.ask({**test.body, "model": model, **words, **(more or {})}, chat=test.chat)
            on_progress(outcome.done + 1, model)
            return answer

        outcome = LoadOutcome()
        problems = usage_problems(await _check(ask, test), CHECK_TOKENS)
        energy = meters(Root(), probe_cards())
        start = energy.read()
        work = (
            open_loop(ask, test.prompts, test.rate, outcome, test.seed)
            if test.rate
            else closed_loop(ask, test.prompts, test.clients, outcome)
        )
        interrupted = False
        try:
            await work
        except asyncio.CancelledError:  # Ctrl-C
            if not outcome.answers:
                raise
            interrupted = True
        if not outcome.answers:
            raise outcome.failures[0]
        return Result(model, outcome, problems, energy.joules(start, energy.read()), interrupted)


async def _check(ask: Callable[[str, Mapping[str, Any]], Any], test: Test) -> EndpointAnswer:
    """Request one short answer in which every token is named; if the endpoint refuses that, one without names."""
    naming = {"logprobs": True} if test.chat else {"logprobs": 1}
    short = {"max_tokens": CHECK_TOKENS}
    try:
        answer: EndpointAnswer = await ask(test.prompts[0], {**short, **naming})
    except EndpointError as error:
        if REFUSED not in error.what:
            raise
        answer = await ask(test.prompts[0], short)
    return answer


def _choose(model: str | None, offered: Sequence[str], base: str) -> str:
    if model is not None:
        return model
    if len(offered) != 1:
        names = ", ".join(offered) or "none"
        raise UsageError(f"{base} has {len(offered)} models: {names}.", fix="Choose one: --model NAME.")
    return offered[0]
