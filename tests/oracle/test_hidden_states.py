"""Hidden states that a step gives back, against transformers; and that nobody's logits change for them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from kit.gguf_builder import TinyModel
from kit.single_rank import SingleRank
from kit.transformers_reference import reference_hidden, reference_model

from rowspan.kernels.isa import available_isas
from rowspan.scheduler.batch import Chunk

MODEL = TinyModel("qwen2", n_heads=4, n_kv_heads=2, n_layers=2)
LENGTHS = (40, 1, 17, 33, 5, 9)
SAMPLES = (1, 1, 0, 0, 3, 0)
HIDDEN = (0, 1, 17, 4, 2, 0)


@pytest.mark.parametrize("isa", available_isas())
def test_each_chunk_gets_what_it_asks_for(isa: str, tmp_path: Path) -> None:
    """Logits, hidden states, both, more of one or of the other, or nothing, side by side."""
    path = MODEL.write(tmp_path / "tiny.gguf")
    rank, plain = SingleRank(path, isa=isa, outputs=8), SingleRank(path, isa=isa)
    rng = random.Random(isa)
    chunks = [
        Chunk(n, tuple(rng.choices(range(rank.spec.vocab_size), k=length)), 0, (2 * n, 2 * n + 1), samples, hidden)
        for n, (length, samples, hidden) in enumerate(zip(LENGTHS, SAMPLES, HIDDEN, strict=True))
    ]
    logits, hidden = rank.outputs(chunks)
    assert hidden is not None
    assert hidden.dtype == torch.float32
    reference = reference_model(MODEL)
    expected = [reference_hidden(reference, chunk.tokens)[len(chunk.tokens) - chunk.hidden :] for chunk in chunks]
    torch.testing.assert_close(hidden, torch.cat(expected), atol=2e-4, rtol=1e-4)

    alone = [plain.step([chunk])[len(chunk.tokens) - chunk.samples :] for chunk in chunks]
    assert torch.equal(logits, torch.cat(alone))
    again, nothing = rank.outputs([chunk._replace(hidden=0) for chunk in chunks])
    assert torch.equal(again, logits)
    assert nothing is None


@pytest.mark.parametrize("isa", available_isas())
def test_a_step_may_want_hidden_states_alone(isa: str, tmp_path: Path) -> None:
    rank = SingleRank(MODEL.write(tmp_path / "tiny.gguf"), isa=isa, outputs=1)
    tokens = (5, 6, 7, 8, 9)
    logits, hidden = rank.outputs([Chunk(0, tokens, 0, (3,), 0, 5)])
    assert logits.shape == (0, rank.spec.vocab_size)
    assert hidden is not None
    torch.testing.assert_close(hidden, reference_hidden(reference_model(MODEL), tokens), atol=2e-4, rtol=1e-4)
