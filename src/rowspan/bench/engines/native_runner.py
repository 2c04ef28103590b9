"""Times the native engine: starts its worker processes and sends step plans straight to them.

No server, scheduler, prefix cache or tokenizer is in the way: what is timed is what every token of every request costs.
The rules are llama-bench's (https://github.com/ggml-org/llama.cpp/tree/master/tools/llama-bench): random tokens, no end
of text, only the last token of a prompt gets logits, and a repetition begins with an empty cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil

from rowspan.bench.engines.steps import Steps
from rowspan.bench.grid import Workload
from rowspan.bench.job import LoadFacts, Sample
from rowspan.bench.machine.peak_memory import peak_memory
from rowspan.engine.blueprint import Blueprint, with_trusted_routes
from rowspan.engine.group import WorkerGroup
from rowspan.errors import OutOfMemoryError
from rowspan.scheduler.batch import StepPlan


class NativeRunner:
    """One configuration of the native engine, loaded and ready. Use it in a `with` block: it owns worker processes."""

    def __init__(self, blueprint: Blueprint) -> None:
        """Start the workers.

        Raises:
            EngineError: a worker could not load.
            SplitError: no transport between the devices can be trusted.
        """
        self._config = blueprint.config
        self._vocab_size = blueprint.spec.vocab_size
        self._steps: Steps | None = None  # for the workload that is prepared
        self._depth = 0  # of the workload that is prepared
        self._stages = blueprint.plan.n_stages
        self._trusted = with_trusted_routes(blueprint)
        seconds = self._start()
        ready = self._group.ready
        self.facts = LoadFacts(
            seconds, sum(rank.weight_bytes for rank in ready), sum(rank.cache_bytes for rank in ready)
        )

    def prepare(self, workload: Workload, *, warm_up: bool = True) -> None:
        """Compute a whole prompt and one generated token, untimed, on an empty cache; then put `n_depth` tokens into
        the cache. Repetitions compute tokens behind these and leave them as they are, so preparing once is enough.
        """
        config, self._depth = self._config, workload.n_depth
        # Sequences lie as close in the cache as this workload allows, so that the cache need not have room for the
        # longest context and the largest number of sequences at once.
        self._steps = Steps(
            self._vocab_size, workload.context, config.token_budget, self._trusted.cache_layout, workload.n_concurrent
        )
        if warm_up:
            self._compute(0, workload.n_prompt, 0, workload.n_concurrent)
            self._compute(0, 0, min(1, workload.n_gen), workload.n_concurrent)
        self._compute(0, workload.n_depth, 0, workload.n_concurrent)

    def measure(self, workload: Workload) -> Sample:
        """Time one repetition. It overwrites all that the previous repetition cached beyond the workload's depth."""
        started = time.perf_counter_ns()
        self._compute(workload.n_depth, workload.n_prompt, workload.n_gen, workload.n_concurrent)
        return Sample(time.perf_counter_ns() - started)

    def processes(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def rouse(self) -> None:
        """Compute one token at the position where a repetition begins, which the repetition will overwrite."""
        self._compute(self._depth, 0, 1, 1)

    def peak_memory(self) -> int:
        return peak_memory(self._workers)

    def wake_seconds(self) -> float:
        """Seconds from asleep, when no workers run, to ready. `rowspan serve` also reads the vocabulary again."""
        self._group.close()
        return self._start()

    def close(self) -> None:
        self._group.close()

    def __enter__(self) -> NativeRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> float:
        """Start the workers and return the seconds it took."""
        others = set(psutil.Process().children())
        started = time.perf_counter()
        self._group = WorkerGroup(self._trusted.setups(), self._trusted.config.hang_seconds)
        seconds = time.perf_counter() - started
        self._workers = [child for child in psutil.Process().children() if child not in others]
        needed, block_size = self._trusted.cache.n_blocks, self._trusted.config.block_size
        if self._group.n_blocks < needed:
            self._group.close()
            raise OutOfMemoryError(
                f"The cards have room for a cache of {self._group.n_blocks * block_size} tokens only.",
                why=f"{needed * block_size} are needed.",
                fix="Use a smaller depth, fewer sequences, or --cache-type-k f16 --cache-type-v f16.",
            )
        return seconds

    def _compute(self, start: int, n_prompt: int, n_gen: int, sequences: int) -> None:
        """Compute one repetition's steps. As in the engine, a pipeline's stages work on different steps at the same
        time: chunks of prompts follow each other without waiting; a sequence's next generated token waits for its last
        one, unless the engine plans a step ahead.
        """
        assert self._steps is not None, "prepared before"
        parts = min(self._stages, sequences)
        self._run(self._steps.prompt(start, n_prompt, sequences), self._stages)
        self._run(self._steps.generation(start + n_prompt, n_gen, sequences, parts), parts + self._group.ahead)

    def _run(self, plans: Sequence[StepPlan], at_once: int) -> None:
        """Run step plans in order. Args: at_once: number of steps that are under way at the same time."""
        for number, plan in enumerate(plans):
            if number >= at_once:
                self._group.result()
            self._group.send(plan)
        for _ in range(min(at_once, len(plans))):
            self._group.result()
