"""One rank of the engine: loads its shard, then runs step plans."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowspan.comm.connect import Computes, connect
from rowspan.comm.shared import SharedMemory
from rowspan.kernels.device_kernels import kernels_for
from rowspan.kernels.isa import is_native, native_module
from rowspan.kernels.ops import DeviceMemoryError, Outputs, Step, StepLimits
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.model.position_tables import position_tables
from rowspan.model.transformer import Transformer
from rowspan.model.weights import load_weights
from rowspan.scheduler.batch import StepPlan, StepResult
from rowspan.worker.answers import Later
from rowspan.worker.cache_size import cache_blocks, make_caches
from rowspan.worker.card_sampler import CardSampler
from rowspan.worker.grammar_mask import GrammarMasks
from rowspan.worker.logits_processors import logits_processors
from rowspan.worker.messages import (
    CreateCache,
    Loaded,
    MemoryProfiled,
    Offload,
    Offloaded,
    ProfileMemory,
    Restore,
    StepOutOfMemory,
    WorkerReady,
    WorkerSetup,
)
from rowspan.worker.sampler import Sampler
from rowspan.worker.step_inputs import hidden_states, step_inputs

if TYPE_CHECKING:
    from rowspan.text.grammar_tokens import GrammarTokens

log = logging.getLogger(__name__)

SHORT_STEP_BYTES = 2 << 30  # of weights: read in 50 ms or so, and the engine takes 2 ms between steps


class Worker:
    """Holds a shard, its part of the KV cache, and (on the output rank) the sampler."""

    def __init__(self, setup: WorkerSetup, on_tensor: Callable[[int], None] = lambda nbytes: None) -> None:
        """Load the shard and join the other ranks.

        Raises:
            RowspanError: the model file is damaged or asks for something unknown.
        """
        started = time.perf_counter()
        plan, shard = setup.plan, setup.plan.shards[setup.rank]
        self._is_output = setup.rank == plan.output_rank
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
        kernels.finish_loading()
        cache_layout = setup.cache_layout
        n_blocks = cache_layout.blocks_for(setup.context_size)
        positions = position_tables(plan.spec, n_blocks * cache_layout.block_size, setup.context_size, weights, kernels)
        self._setup = setup
        self._kernels = kernels
        masks = GrammarMasks(partial(_grammar_tokens, setup.model_path, plan.spec.vocab_size))
        processors = partial(logits_processors, make_mask=masks.processor)
        self._sampler = Sampler(processors) if kernels.sample is None else CardSampler(kernels.sample, processors)
        self._gave_back = False  # the last step
        self._model = Transformer(plan, shard, weights, (), positions, kernels, kernels.connect(self._comm))
        limits = (setup.max_tokens, setup.max_logits, n_blocks, cache_layout.block_size, len(cache_layout.groups))
        self._limits = StepLimits(*limits)
        self._forward: Step | None = None
        self._load_seconds = time.perf_counter() - started

    def obey(self, order: object) -> object:
        """Carry out an order of the engine, and return the answer to it; None: there is no answer.

        Raises:
            DeviceMemoryError: there is no room for a cache.
        """
        match order:
            case StepPlan():
                return self.step(order)
            case ProfileMemory(turn, tokens):
                return self.profile_memory(tokens) if turn == self._setup.turn else None
            case CreateCache(n_blocks):
                return self.create_cache(n_blocks)
            case Offload():
                return self.offload()
            case Restore():
                return self.restore()
        raise TypeError(f"a worker is told {type(order).__name__}")

    def profile_memory(self, tokens: int | None = None) -> MemoryProfiled:
        """Carry out `ProfileMemory`. Raises DeviceMemoryError if there is no room for a cache."""
        self._close_cache()
        limits = replace(self._limits, tokens=tokens or self._limits.tokens)
        return MemoryProfiled(self._setup.rank, cache_blocks(self._setup, self._model, limits))

    def create_cache(self, n_blocks: int) -> WorkerReady:
        """Allocate the KV cache, with so many blocks or as many as there is room for, and get ready for steps."""
        if self._kernels.memory is None:  # it stays for good; others on cards may have more room another time
            n_blocks = self._setup.n_blocks
        while True:
            try:
                return self._open_cache(n_blocks)
            except DeviceMemoryError:  # others took memory meanwhile, or capturing took more than foreseen
                self._close_cache()
                n_blocks = n_blocks * 7 // 8
                if not n_blocks:
                    raise

    def step(self, plan: StepPlan) -> StepResult | Later | StepOutOfMemory | None:
        """Run one plan. The output rank returns what was sampled, the others None."""
        for seq_id in plan.forget:
            self._sampler.forget(seq_id)
        if self._is_output:
            for sequence in plan.new:
                self._sampler.learn(sequence)

        if self._gave_back and plan.ahead:
            return None  # what it goes on from ran out of memory: the engine does not wait for it any more

        assert self._forward is not None, "steps come when this rank is ready"
        self._gave_back = False
        try:
            limits = self._limits
            inputs = step_inputs(plan, limits.block_size, self._sampler.latest, limits.groups)
            outputs = self._forward(inputs)
            return self._result(plan, outputs) if self._is_output else None
        except DeviceMemoryError as error:
            log.warning("Rank %d: %s", self._setup.rank, str(error))  # not the error, which holds what failed
            self._gave_back = True
            return StepOutOfMemory(self._setup.rank, plan.number)

    def _result(self, plan: StepPlan, outputs: Outputs[Any]) -> StepResult | Later:
        chunks = [chunk for chunk in plan.chunks if chunk.samples]
        hidden = hidden_states(plan, outputs.hidden)
        if outputs.logits is None:
            return StepResult(plan.number, (), hidden)
        if isinstance(self._sampler, Sampler):
            return StepResult(plan.number, self._sampler.sample(chunks, outputs.logits), hidden)
        wait_for_tokens = self._sampler.sample(chunks, outputs.logits)
        return Later(lambda: StepResult(plan.number, wait_for_tokens(), hidden))

    def offload(self) -> Offloaded:
        """Move the weights to the host's memory, where a CPU rank's are already."""
        if self._kernels.memory is not None:
            self._close_cache()
            self._kernels.memory.offload()
        return Offloaded(self._setup.rank)

    def restore(self) -> Loaded:
        if self._kernels.memory is not None:
            self._kernels.memory.restore()
        return Loaded(self._setup.rank)

    def _takes_steps_ahead(self) -> bool:
        """Whether steps may be planned ahead, so that the worker computes while the engine plans. A step ahead may be
        in vain, when a stop token ends the answer, and new requests wait for it: on CPUs it must be short. If there are
        several ranks, only one knows which token was sampled.
        """
        on_card = self._kernels.memory is not None or self._kernels.sample is not None  # or in Triton's interpreter
        short = is_native(self._setup.cpu_isa) and self._model.weights.nbytes < SHORT_STEP_BYTES
        return (on_card or short) and len(self._setup.plan.shards) == 1

    def _open_cache(self, n_blocks: int) -> WorkerReady:
        if self._forward is None:
            model = replace(self._model, caches=make_caches(self._setup, self._model, n_blocks))
            self._forward = self._kernels.capture(model.forward, self._limits)
            self._cache_bytes = sum(cache.nbytes for cache in model.caches)
        return WorkerReady(
            rank=self._setup.rank,
            kernels=self._kernels.name,
            on_card=self._kernels.memory is not None,
            ahead=self._takes_steps_ahead(),
            n_blocks=n_blocks,
            weight_bytes=self._model.weights.nbytes,
            cache_bytes=self._cache_bytes,
            load_seconds=self._load_seconds,
        )

    def _close_cache(self) -> None:
        if self._kernels.memory is not None:  # what native kernels have recorded stays
            self._forward = None
            self._kernels.memory.trim()

    def close(self) -> None:
        self._comm.close()


def _grammar_tokens(model_path: Path, vocab_size: int) -> GrammarTokens:
    # The library beneath takes every rank 4 MB: it is imported with the first grammar.
    from rowspan.text.grammar_tokens import GrammarTokens
    from rowspan.text.tokenizer import Tokenizer

    return GrammarTokens(Tokenizer.from_metadata(open_checkpoint(model_path).metadata), vocab_size)


def _computes(setup: WorkerSetup) -> Computes:
    native, torch_dtype = native_module(), None
    isa = setup.cpu_isa
    if not is_native(isa):
        torch_dtype, isa = setup.dtype, native.isas()[0] if native is not None else ""
    return Computes(native, isa, torch_dtype)


def _take_first_core(setup: WorkerSetup) -> None:
    """Keep this thread off the cores that native kernels give to their helper threads: see `native/pool.hpp`."""
    cores = sorted(os.sched_getaffinity(0))
    if is_native(setup.cpu_isa) and len(cores) == setup.threads:
        os.sched_setaffinity(0, cores[:1])
