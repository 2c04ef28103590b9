"""A whole model on one rank in this process: logits of every token, for comparison with references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rowspan.comm.base import Comm, SoloGroup
from rowspan.kernels.device_kernels import kernels_for
from rowspan.kernels.isa import kernels_used
from rowspan.kernels.ops import Kernels, StepLimits
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.model.position_tables import position_tables
from rowspan.model.transformer import Transformer
from rowspan.model.weights import load_weights
from rowspan.plan.device import Device
from rowspan.plan.split import split
from rowspan.plan.split_mode import SplitMode
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.step_inputs import step_inputs


class SingleRank:
    def __init__(
        self,
        path: Path,
        *,
        n_blocks: int = 64,
        block_size: int = 32,
        isa: str | None = None,
        dtype: str = "float32",
        cache: str = "float32",
        threads: int = 2,
        kernels: Kernels[Any] | None = None,
        outputs: int | None = None,
    ) -> None:
        """
        Args:
            isa: of the kernels; None: the best this machine has. kernels: these instead.
            cache: type of keys and values.
            outputs: most tokens with logits in a step; None: all.
        """
        checkpoint = open_checkpoint(path)
        self.spec = read_spec(checkpoint)
        plan = split(self.spec, checkpoint.tensors, [Device("cpu", 0)], SplitMode.NONE)
        if kernels is None:
            chosen, _ = kernels_used(isa, "cpu", dtype)
            kernels = kernels_for(Device("cpu", 0), dtype, chosen, threads)
        weights = load_weights(checkpoint, plan, plan.shards[0], kernels)
        kernels.finish_loading()
        n_slots = n_blocks * block_size
        positions = position_tables(self.spec, n_slots, n_slots, weights, kernels)
        mixers = [layer.mixer for layer in self.spec.layers]
        caches = [
            kernels.cache(n_slots, *mixer.cached(mixer.n_kv_heads), (cache, cache), group)
            for mixer, group in zip(mixers, self.spec.layer_groups, strict=True)
        ]
        model = Transformer(
            plan, plan.shards[0], weights, caches, positions, kernels, kernels.connect(Comm(SoloGroup()))
        )
        self.block_size = block_size
        limits = StepLimits(n_slots, outputs or n_slots, n_blocks, block_size, len(self.spec.cache_groups))
        self._forward = kernels.capture(model.forward, limits)

    def step(self, chunks: Sequence[Chunk], *, every_token: bool = True) -> Tensor:
        """Logits of every token of the step, (T, vocabulary), or of those only that an engine asks for. Chunks have one
        table, which is that of every group of layers."""
        groups = len(self.spec.cache_groups)
        repeated = tuple(chunk._replace(blocks=tuple(chunk.blocks) * groups) for chunk in chunks)
        inputs = step_inputs(StepPlan(0, repeated), self.block_size, n_groups=groups)
        if every_token:
            inputs = replace(inputs, output_rows=np.arange(len(inputs.tokens)), logit_rows=None, hidden_rows=None)
        outputs = self._forward(inputs)
        assert outputs is not None
        return torch.as_tensor(outputs.logits).clone()

    def outputs(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor | None]:
        """What an engine gets: logits of every token that samples, and hidden states where they are asked for."""
        outputs = self._forward(step_inputs(StepPlan(0, tuple(chunks)), self.block_size))
        assert outputs is not None
        hidden = None if outputs.hidden is None else torch.from_numpy(outputs.hidden).clone()
        return torch.as_tensor(outputs.logits).clone(), hidden

    def states(self, chunks: Sequence[Chunk]) -> Tensor:
        """The hidden states that are asked for, of models that give nothing else."""
        outputs = self._forward(step_inputs(StepPlan(0, tuple(chunks)), self.block_size))
        assert outputs is not None
        assert outputs.logits is None
        assert outputs.hidden is not None
        return torch.from_numpy(outputs.hidden).clone()

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """A whole sequence in one step."""
        blocks = tuple(range(-(-len(tokens) // self.block_size)))
        return self.step([Chunk(0, tuple(tokens), 0, blocks, True)])
