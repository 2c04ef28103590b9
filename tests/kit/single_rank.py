"""A whole model on one rank in this process: logits of every token, for comparison with references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rowspan.checkpoint.open import open_checkpoint
from rowspan.comm.base import SoloComm
from rowspan.kernels.isa import choose_isa
from rowspan.kernels.registry import kernels_for
from rowspan.kvcache.pool import allocate_pool
from rowspan.model.rope import rope_table
from rowspan.model.spec import ModelSpec
from rowspan.model.transformer import Transformer
from rowspan.model.weights import load_weights
from rowspan.plan.device import Device
from rowspan.plan.split import SplitMode, split
from rowspan.scheduler.batch import Chunk, StepPlan
from rowspan.worker.inputs import step_inputs

CPU = torch.device("cpu")


class SingleRank:
    def __init__(self, path: Path, *, n_blocks: int = 64, block_size: int = 32, isa: str | None = None) -> None:
        """Args: isa: of the kernels; None: the best this machine has."""
        checkpoint = open_checkpoint(path)
        self.spec = ModelSpec.from_metadata(checkpoint.metadata, checkpoint.shapes)
        plan = split(self.spec, checkpoint.tensors, [Device("cpu", 0)], SplitMode.NONE)
        dtype = torch.float32
        kernels = kernels_for(CPU, dtype, choose_isa(isa), threads=2)
        weights = load_weights(checkpoint, plan, plan.shards[0], kernels, CPU, dtype)
        rope = rope_table(self.spec.rope, n_blocks * block_size, weights.rope_freqs, CPU)
        self.model = Transformer(plan, plan.shards[0], weights, rope, kernels, SoloComm(), dtype)
        self.block_size = block_size
        self.caches = allocate_pool(
            self.spec.n_layers, n_blocks, block_size, self.spec.n_kv_heads, self.spec.head_dim, (dtype, dtype), CPU
        )

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits of every token of the step, (T, vocabulary)."""
        inputs = step_inputs(StepPlan(0, tuple(chunks)), self.block_size, CPU)
        inputs = replace(inputs, sample_rows=torch.arange(len(inputs.tokens)))
        x = self.model.run_layers(self.model.embed(inputs.tokens), self.caches, inputs)
        logits = self.model.logits(x)
        assert logits is not None
        return logits

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """A whole sequence in one step."""
        blocks = tuple(range(-(-len(tokens) // self.block_size)))
        return self.step([Chunk(0, tuple(tokens), 0, blocks, True)])
