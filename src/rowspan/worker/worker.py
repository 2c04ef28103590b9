"""One rank of the engine: loads its shard, then runs step plans."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rowspan.checkpoint.open import open_checkpoint
from rowspan.comm.connect import Computes, connect
from rowspan.comm.shared import SharedMemory
from rowspan.kernels.isa import TORCH, native_module
from rowspan.kernels.registry import kernels_for
from rowspan.model.rope import rope_table
from rowspan.model.transformer import Transformer
from rowspan.model.weights import load_weights
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.inputs import step_inputs
from rowspan.worker.messages import WorkerReady, WorkerSetup
from rowspan.worker.sampler import Sampler


class Worker:
    """Holds a shard, its part of the KV cache, and (on the output rank) the sampler."""

    def __init__(self, setup: WorkerSetup, on_tensor: Callable[[int], None] = lambda nbytes: None) -> None:
        """Load the shard and join the other ranks.

        Raises:
            RowspanError: the model file is damaged or asks for something unknown.
        """
        started = time.perf_counter()
        plan, shard = setup.plan, setup.plan.shards[setup.rank]
        self._block_size = setup.block_size
        self._is_output = setup.rank == plan.output_rank
        self._sampler = Sampler()
        assert setup.meeting is not None, "the group fills it in"
        layout = setup.meeting.layout
        self._memory = memory = SharedMemory(setup.memory, layout.nbytes) if layout else None  # kernels count in it
        # Before loading, which may take minutes: a network that does not let ranks through is found at once. And before
        # this rank keeps to its cores: a message took gloo's own thread 4 ms on a core shared with this one, or 80 µs.
        self._comm = connect(plan, setup.rank, setup.routes, setup.meeting, memory, _computes(setup))
        if setup.cores:
            os.sched_setaffinity(0, setup.cores)
        progress = memory.progress_address(setup.rank) if memory else 0
        kernels = kernels_for(shard.device, setup.dtype, setup.cpu_isa, setup.threads, progress)
        _take_first_core(setup)
        weights = load_weights(open_checkpoint(setup.model_path), plan, shard, kernels, on_tensor)
        caches = [
            kernels.cache(
                setup.n_blocks * setup.block_size, len(shard.kv_heads), plan.spec.head_dim, setup.cache_dtypes
            )
            for _ in range(len(shard.layers))
        ]
        rope = kernels.rope_table(rope_table(plan.spec.rope, setup.context_size, weights.rope_freqs))
        model = Transformer(plan, shard, weights, caches, rope, kernels, kernels.connect(self._comm))
        self._forward = kernels.capture(model.forward, setup.max_tokens, setup.max_outputs)
        self.ready = WorkerReady(
            rank=setup.rank,
            weight_bytes=weights.nbytes,
            cache_bytes=sum(cache.nbytes for cache in caches),
            load_seconds=time.perf_counter() - started,
        )

    def step(self, plan: StepPlan) -> StepResult | None:
        """Run one plan. The output rank returns what was sampled, the others None."""
        for seq_id in plan.forget:
            self._sampler.forget(seq_id)
        if self._is_output:
            for sequence in plan.new:
                self._sampler.learn(sequence)

        logits = self._forward(step_inputs(plan, self._block_size))
        if not self._is_output:
            return None
        assert logits is not None, "the output rank gathers the logits"
        seq_ids = [chunk.seq_id for chunk in plan.chunks if chunk.samples]
        return StepResult(plan.number, self._sampler.sample(seq_ids, logits))

    def close(self) -> None:
        self._comm.close()


def _computes(setup: WorkerSetup) -> Computes:
    native, torch_dtype = native_module(), None
    isa = setup.cpu_isa
    if isa == TORCH:
        torch_dtype, isa = setup.dtype, native.isas()[0] if native is not None else ""
    return Computes(native, isa, torch_dtype)


def _take_first_core(setup: WorkerSetup) -> None:
    """Keep this thread off the cores that native kernels give to their helpers: see `native/pool.hpp`."""
    cores = sorted(os.sched_getaffinity(0))
    if setup.cpu_isa != TORCH and len(cores) == setup.threads:
        os.sched_setaffinity(0, cores[:1])
