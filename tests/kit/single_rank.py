"""A whole model on one rank in this process: logits of every token, for comparison with references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rowspan.checkpoint.open import open_checkpoint
from rowspan.comm.base import Comm, SoloGroup
from rowspan.kernels.isa import kernels_used
from rowspan.kernels.ops import Kernels, StepLimits
from rowspan.kernels.registry import kernels_for
from rowspan.model.rope_table import rope_table
from rowspan.model.spec import ModelSpec
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
        self.spec = ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes)
        plan = split(self.spec, checkpoint.tensors, [Device("cpu", 0)], SplitMode.NONE)
        if kernels is None:
            chosen, _ = kernels_used(isa, "cpu", dtype)
            kernels = kernels_for(Device("cpu", 0), dtype, chosen, threads)
        weights = load_weights(checkpoint, plan, plan.shards[0], kernels)
        kernels.finish_loading()
        rope = kernels.rope_table(rope_table(self.spec.rope, n_blocks * block_size, weights.rope_freqs))
        n_slots, shape = n_blocks * block_size, (self.spec.n_kv_heads, self.spec.head_dim)
        caches = [kernels.cache(n_slots, *shape, (cache, cache)) for _ in range(self.spec.n_layers)]
        model = Transformer(plan, plan.shards[0], weights, caches, rope, kernels, kernels.connect(Comm(SoloGroup())))
        self.block_size = block_size
        self._forward = kernels.capture(model.forward, StepLimits(n_slots, outputs or n_slots, n_blocks, block_size))

    def step(self, chunks: Sequence[Chunk], *, every_token: bool = True) -> Tensor:
        """Logits of every token of the step, (T, vocabulary), or of those only that an engine asks for."""
        inputs = step_inputs(StepPlan(0, tuple(chunks)), self.block_size)
        if every_token:
            inputs = replace(inputs, output_rows=np.arange(len(inputs.tokens)))
        logits = self._forward(inputs)
        assert logits is not None
        return torch.as_tensor(logits).clone()

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """A whole sequence in one step."""
        blocks = tuple(range(-(-len(tokens) // self.block_size)))
        return self.step([Chunk(0, tuple(tokens), 0, blocks, True)])
