"""Takes times: worker processes, and step plans sent straight to them.

No server, scheduler, prefix cache or tokenizer is in the way; what is timed is what every token of every request costs.
The rules are llama-bench's (https://github.com/ggml-org/llama.cpp/tree/master/tools/llama-bench): random tokens, no end
of text, only the last token of a prompt gets logits, and a repetition begins with an empty cache.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from types import TracebackType

from rowspan.bench.environment import peak_child_memory
from rowspan.bench.grid import Workload
from rowspan.engine.group import WorkerGroup
from rowspan.engine.open import Blueprint
from rowspan.scheduler.batch import Chunk, NewSequence, StepPlan
from rowspan.scheduler.request import SamplingParams

SEED = 0  # of the random tokens: the same in every configuration
SEQUENCE = NewSequence(seq_id=0, tokens=(), prompt_length=0, params=SamplingParams(temperature=0.0, seed=0))


class Runner:
    """One configuration, loaded and ready. Use it in a `with` block: it owns worker processes.

    load_seconds: from the first spawn until all ranks had loaded.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        """Start the workers.

        Raises:
            EngineError: a worker could not load.
        """
        self._token_budget = blueprint.config.token_budget
        self._block_size = blueprint.config.block_size
        self._tokens = random.Random(SEED).choices(range(blueprint.spec.vocab_size), k=blueprint.cache.context_size)
        self._numbers = count()
        started = time.perf_counter()
        self._group = WorkerGroup(blueprint.setups())
        self.load_seconds = time.perf_counter() - started
        self.weight_bytes = sum(rank.weight_bytes for rank in self._group.ready)
        self.cache_bytes = sum(rank.cache_bytes for rank in self._group.ready)

    def warm_up(self, workload: Workload) -> None:
        """A whole prompt and one generated token, untimed, on an empty cache."""
        self._run(self.prompt_plans(0, workload.n_prompt))
        self._run(self.generation_plans(0, min(1, workload.n_gen)))

    def fill(self, depth: int) -> None:
        """Put `depth` tokens into the cache, untimed. Repetitions go on behind them and leave them as they are, so once
        for all of a workload's repetitions is enough."""
        self._run(self.prompt_plans(0, depth))

    def measure(self, workload: Workload) -> int:
        """Nanoseconds of one repetition. It overwrites whatever the one before left beyond the workload's depth."""
        middle = workload.n_depth + workload.n_prompt
        plans = [
            *self.prompt_plans(workload.n_depth, workload.n_prompt),
            *self.generation_plans(middle, workload.n_gen),
        ]
        started = time.perf_counter_ns()
        self._run(plans)
        return time.perf_counter_ns() - started

    def prompt_plans(self, start: int, length: int) -> list[StepPlan]:
        """Steps of the token budget; only the last token's logits are asked for."""
        stop = start + length
        return [
            self._plan(first, min(first + self._token_budget, stop), samples=first + self._token_budget >= stop)
            for first in range(start, stop, self._token_budget)
        ]

    def generation_plans(self, start: int, length: int) -> list[StepPlan]:
        """Steps of one token, each followed by a greedy choice that is not used."""
        return [self._plan(position, position + 1, samples=True) for position in range(start, start + length)]

    def peak_memory(self) -> int:
        """Most resident bytes so far, over all ranks; pages they share count for each."""
        return peak_child_memory()

    def close(self) -> None:
        self._group.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self, start: int, stop: int, *, samples: bool) -> StepPlan:
        blocks = tuple(range(-(-stop // self._block_size)))
        chunk = Chunk(SEQUENCE.seq_id, tuple(self._tokens[start:stop]), start, blocks, samples)
        return StepPlan(next(self._numbers), (chunk,))

    def _run(self, plans: Sequence[StepPlan]) -> None:
        for plan in introduced(plans):
            self._group.run(plan)


def introduced(plans: Sequence[StepPlan]) -> list[StepPlan]:
    """The plans, the first of which introduces the sequence anew."""
    return [replace(plan, new=(SEQUENCE,)) for plan in plans[:1]] + list(plans[1:])
