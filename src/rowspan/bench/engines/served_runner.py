"""Times other engines through their own API: with the same token ids, without prefix reuse, without an end of text.

One sequence is timed by the engine's own clock, so that HTTP is not in it; the time that a client waited is kept beside
it. A generated token's time is that of the step that makes it: the engine is asked for one token more than is measured,
since the first comes with the prompt. Tokens that precede a test are computed anew for every repetition, since the
cache is not kept: the time of a prompt behind other tokens is the difference between two prompts. Several sequences are
timed by the client, who alone sees them together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import psutil

from rowspan.backends.process.child_backend import ChildBackend
from rowspan.backends.protocol import LoadWatch, SamplingParams
from rowspan.bench.engines.steps import random_tokens
from rowspan.bench.grid import Workload
from rowspan.bench.job import LoadFacts, Sample
from rowspan.bench.machine.peak_memory import peak_memory
from rowspan.errors import EngineError

NS = 1e9


@dataclass(frozen=True)
class _Answer:
    """One request's timing.

    prompt, generation: seconds by the engine's clock, or by the client's if the engine shows none.
    arrivals: moments by the client's clock, each with the number of tokens that had arrived by then.
    """

    prompt: float
    generation: float
    started: float
    arrivals: Sequence[tuple[float, int]]

    @property
    def waited(self) -> float:
        return self.arrivals[-1][0] - self.started


class ServedRunner:
    """The `rowspan.bench.job.Runner` of an engine behind an HTTP API."""

    def __init__(self, backend: ChildBackend, vocab_size: int) -> None:
        """Start the engine. Raises RowspanError if it cannot be started."""
        self._backend = backend
        self._vocab_size = vocab_size
        self._loop = asyncio.Runner()
        started = time.perf_counter()
        backend.start(LoadWatch())
        self.facts = LoadFacts(time.perf_counter() - started, None, None)

    def prepare(self, workload: Workload, *, warm_up: bool) -> None:
        if warm_up:
            shape = (max(1, workload.n_prompt), min(1, workload.n_gen) + 1)
            self._ask(*shape, workload.n_concurrent)

    def measure(self, workload: Workload) -> Sample:
        depth, prompt, generated = workload.n_depth, workload.n_prompt, workload.n_gen
        answers = self._ask(max(1, depth + prompt), generated + 1, workload.n_concurrent)
        before = self._ask(depth, 1, workload.n_concurrent) if depth and prompt else []
        if workload.n_concurrent > 1:
            seconds = _together(answers, generated) if not prompt else _first_tokens(answers) - _first_tokens(before)
            seconds += _together(answers, generated) if prompt and generated else 0.0
        else:
            seconds = sum(one.prompt * bool(prompt) + one.generation * bool(generated) for one in answers)
            seconds -= sum(one.prompt for one in before)
        if seconds <= 0:
            raise EngineError(
                f"{workload.name} took no longer than the {depth} tokens before it alone.",
                why="It is the difference of two times, which other work on this machine has upset.",
                fix="Let the machine do nothing else, and measure again.",
            )
        every = [*answers, *before]
        waited, accounted = sum(one.waited for one in every), sum(one.prompt + one.generation for one in every)
        return Sample(round(seconds * NS), round(waited * NS), round(accounted * NS))

    def peak_memory(self) -> int:
        return peak_memory(one for root in self.processes() for one in _tree(root))

    def processes(self) -> list[int]:
        return self._backend.processes()

    def rouse(self) -> None:
        """Request a short answer."""
        self._ask(1, 2, 1)

    def wake_seconds(self) -> float:
        """Seconds from asleep to ready."""
        self._loop.run(self._backend.sleep())
        started = time.perf_counter()
        self._loop.run(self._backend.wake())
        return time.perf_counter() - started

    def close(self) -> None:
        self._loop.close()
        self._backend.stop()

    def _ask(self, n_prompt: int, n_tokens: int, sequences: int) -> list[_Answer]:
        async def together() -> list[_Answer]:
            return list(await asyncio.gather(*(self._one(number, n_prompt, n_tokens) for number in range(sequences))))

        return self._loop.run(together())

    async def _one(self, sequence: int, n_prompt: int, n_tokens: int) -> _Answer:
        tokens = random_tokens(self._vocab_size, n_prompt, sequence)
        params = SamplingParams(max_tokens=n_tokens, temperature=0.0, ignore_eos=True, seed=0)
        started = time.perf_counter()
        arrivals = []
        async with aclosing(self._backend.stream(tokens, params)) as pieces:
            async for piece in pieces:
                arrivals.append((time.perf_counter(), piece.generated))
        timings = piece.timings
        computed = None if timings is None else timings.prompt_tokens
        if piece.generated != n_tokens or piece.cached or computed not in (None, n_prompt):
            raise EngineError(
                f"{self._backend.name} did other work than it was asked for, so that its times mean nothing.",
                why=f"Asked: {n_prompt} tokens, then {n_tokens}. Done: {computed} ({piece.cached} kept from before), "
                f"then {piece.generated}.",
                fix="Please report this with the engine's version.",
            )
        first = arrivals[0][0]
        prompt, generation = (timings.prompt, timings.generation) if timings is not None else (None, None)
        return _Answer(
            first - started if prompt is None else prompt,
            arrivals[-1][0] - first if generation is None else generation,
            started,
            arrivals,
        )


def _tree(root: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _first_tokens(answers: Sequence[_Answer]) -> float:
    """Seconds until every answer has its first token; 0 if there are no answers."""
    if not answers:
        return 0.0
    return max(one.arrivals[0][0] for one in answers) - min(one.started for one in answers)


def _together(answers: Sequence[_Answer], n_gen: int) -> float:
    """Seconds in which every sequence got `n_gen` tokens while all ran at once: from the moment when the last sequence
    had begun until the first one was done.

    Raises:
        EngineError: there was no such time.
    """
    start = max(one.arrivals[0][0] for one in answers)
    stop = min(one.arrivals[-1][0] for one in answers)
    tokens = sum(_tokens_at(one, stop) - _tokens_at(one, start) for one in answers)
    if stop <= start or tokens <= 0:
        raise EngineError(
            f"{len(answers)} sequences never ran at once.",
            why="The first had ended before the last began.",
            fix="Use a larger -n, or fewer sequences (-np).",
        )
    return (stop - start) * len(answers) * n_gen / tokens


def _tokens_at(answer: _Answer, moment: float) -> int:
    return max((tokens for at, tokens in answer.arrivals if at <= moment), default=0)
