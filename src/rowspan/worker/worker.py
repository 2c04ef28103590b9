"""One rank of the engine: loads its shard, then runs step plans."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from rowspan.checkpoint.open import open_checkpoint
from rowspan.comm.connect import connect
from rowspan.errors import UsageError
from rowspan.kernels.registry import kernels_for
from rowspan.kvcache.pool import allocate_pool
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
        self._plan = plan
        self._is_first = shard.stage == 0
        self._is_last = shard.stage == plan.n_stages - 1
        self._is_output = setup.rank == plan.output_rank
        self._device = _claim(setup)
        self._sampler = Sampler()
        dtype: torch.dtype = getattr(torch, setup.dtype)
        kernels = kernels_for(self._device, dtype, setup.cpu_isa, setup.threads)
        checkpoint = open_checkpoint(setup.model_path)
        weights = load_weights(checkpoint, plan, shard, kernels, self._device, dtype, on_tensor)
        self._caches = allocate_pool(
            len(shard.layers),
            setup.n_blocks,
            setup.block_size,
            len(shard.kv_heads),
            plan.spec.head_dim,
            (getattr(torch, setup.cache_dtypes[0]), getattr(torch, setup.cache_dtypes[1])),
            self._device,
        )
        rope = rope_table(plan.spec.rope, setup.context_size, weights.rope_freqs, self._device)
        self._comm = connect(plan, setup.rank, setup.peers, setup.meeting_file, self._device)
        self._model = Transformer(plan, shard, weights, rope, kernels, self._comm, dtype)
        self.ready = WorkerReady(
            rank=setup.rank,
            weight_bytes=weights.nbytes,
            cache_bytes=sum(cache.k.nbytes + cache.v.nbytes for cache in self._caches),
            load_seconds=time.perf_counter() - started,
        )

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepResult | None:
        """Run one plan. The output rank returns what was sampled, the others None."""
        for seq_id in plan.forget:
            self._sampler.forget(seq_id)
        if self._is_output:
            for sequence in plan.new:
                self._sampler.learn(sequence)

        inputs = step_inputs(plan, self._block_size, self._device)
        if self._is_first:
            x = self._model.embed(inputs.tokens)
        else:
            shape = (len(inputs.tokens), self._plan.spec.hidden_size)
            x = self._comm.receive_stage(shape, self._model.dtype)
        x = self._model.run_layers(x, self._caches, inputs)
        if not self._is_last:
            self._comm.send_stage(x)
            return None
        logits = self._model.logits(x[inputs.sample_rows]) if len(inputs.sample_rows) else x.new_empty(0, 0)
        if not self._is_output:
            return None
        assert logits is not None, "the output rank gathers the logits"
        seq_ids = [chunk.seq_id for chunk in plan.chunks if chunk.samples]
        return StepResult(plan.number, self._sampler.sample(seq_ids, logits))

    def close(self) -> None:
        self._comm.close()


def _claim(setup: WorkerSetup) -> torch.device:
    """Make this process use its own device only."""
    device = setup.plan.shards[setup.rank].device
    if setup.cores:
        os.sched_setaffinity(0, setup.cores)
    torch.set_num_threads(setup.threads)
    if device.kind == "cpu":
        return torch.device("cpu")
    if device.index >= torch.cuda.device_count():
        raise UsageError(
            f"There is no device {device}.",
            why=f"torch {torch.__version__} sees {torch.cuda.device_count()} cards here.",
            fix="Name another in --devices, or install the build of torch that is made for your card.",
        )
    torch.cuda.set_device(device.index)
    return torch.device("cuda", device.index)
