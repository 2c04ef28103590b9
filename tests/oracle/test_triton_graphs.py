"""A model's decoding from graphs, filled up with sequences of nobody, against the same steps launched op by op."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit import triton_device  # noqa: F401  # before any kernel
from kit.fake_card import CPU, FakeRecorder
from kit.gguf_builder import TinyModel
from kit.single_rank import SingleRank

from rowspan.kernels.torch.card_memory import CardMemory
from rowspan.kernels.triton.kernels import TritonKernels
from rowspan.scheduler.batch import Chunk

MODEL = TinyModel("llama", hidden_size=64, n_heads=2, n_kv_heads=1, ffn_size=64, n_layers=1, scheme="Q8_0")
DTYPE = torch.float16


@pytest.mark.heavy  # half a minute in the interpreter
@pytest.mark.parametrize("cache", ["float16", "int8"])
def test_graphs_give_the_same_bits(tmp_path: Path, cache: str) -> None:
    path = MODEL.write(tmp_path / "tiny.gguf")
    recorder = FakeRecorder()
    plain, graphs = (
        SingleRank(
            path,
            n_blocks=6,
            block_size=4,
            cache=cache,
            kernels=TritonKernels(DTYPE, CPU, CardMemory(CPU, DTYPE), new_recorder),
            outputs=4,
        )
        for new_recorder in (None, lambda: recorder)
    )
    assert recorder.rows == [4, 2, 1]
    prompts = [Chunk(0, (1, 2, 3), 0, (5,), True), Chunk(1, (7,), 0, (2,), True)]
    decodes = [Chunk(0, (9,), 3, (5,), True), Chunk(1, (4,), 1, (2,), True), Chunk(2, (8,), 0, (1,), True)]
    for step in (prompts, decodes):
        assert torch.equal(plain.step(step), graphs.step(step))
    # No graph gives hidden states; logits beside them are those of a graph.
    again = [chunk._replace(position=chunk.position + 1, tokens=(3,)) for chunk in decodes]
    logits, hidden = plain.outputs([again[0], again[1]._replace(samples=0, hidden=1), again[2]._replace(hidden=1)])
    assert torch.equal(logits, graphs.step(again)[[0, 2]])
    assert hidden is not None
    assert hidden.dtype == torch.float32
    _, both = graphs.outputs([chunk._replace(hidden=1) for chunk in again])
    assert both is not None
    assert torch.equal(both[1:], hidden)
