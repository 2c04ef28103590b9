"""Takes times: worker processes, and step plans sent straight to them.

No server, scheduler, prefix cache or tokenizer is in the way; what is timed is what every token of every request costs.
The rules are llama-bench's (https://github.com/ggml-org/llama.cpp/tree/master/tools/llama-bench): random tokens, no end
of text, only the last token of a prompt gets logits, and a repetition begins with an empty cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rowspan.bench.grid import Workload
from rowspan.bench.peak_memory import peak_child_memory
from rowspan.bench.steps import Steps
from rowspan.engine.group import WorkerGroup
from rowspan.engine.open import Blueprint, trust
from rowspan.scheduler.batch import StepPlan


class Runner:
    """One configuration, loaded and ready. Use it in a `with` block: it owns worker processes.

    load_seconds: from the first spawn until all ranks had loaded. weight_bytes, cache_bytes: over all ranks.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        """Start the workers.

        Raises:
            EngineError: a worker could not load.
            SplitError: no transport between the devices can be trusted.
        """
        config, context_size = blueprint.config, blueprint.cache.context_size
        self._steps = Steps(blueprint.spec.vocab_size, context_size, config.token_budget, config.block_size)
        trusted = trust(blueprint)
        started = time.perf_counter()
        self._group = WorkerGroup(trusted.setups())
        self.load_seconds = time.perf_counter() - started
        self.weight_bytes = sum(rank.weight_bytes for rank in self._group.ready)
        self.cache_bytes = sum(rank.cache_bytes for rank in self._group.ready)

    def warm_up(self, workload: Workload) -> None:
        """A whole prompt and one generated token, untimed, on an empty cache."""
        self._run(self._steps.prompt(0, workload.n_prompt))
        self._run(self._steps.generation(0, min(1, workload.n_gen)))

    def fill(self, depth: int) -> None:
        """Put `depth` tokens into the cache, untimed. Repetitions go on behind them and leave them as they are, so once
        for all of a workload's repetitions is enough."""
        self._run(self._steps.prompt(0, depth))

    def measure(self, workload: Workload) -> int:
        """Nanoseconds of one repetition. It overwrites whatever the one before left beyond the workload's depth."""
        middle = workload.n_depth + workload.n_prompt
        plans = [
            *self._steps.prompt(workload.n_depth, workload.n_prompt),
            *self._steps.generation(middle, workload.n_gen),
        ]
        started = time.perf_counter_ns()
        self._run(plans)
        return time.perf_counter_ns() - started

    def peak_memory(self) -> int:
        """Most resident bytes so far, over all ranks; pages they share count for each."""
        return peak_child_memory()

    def close(self) -> None:
        self._group.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, plans: Iterable[StepPlan]) -> None:
        for plan in plans:
            self._group.run(plan)
