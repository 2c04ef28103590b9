"""The least work of a model's tokens, added up by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.gguf_builder import TinyModel

from rowspan.bench.model_demand import Demand
from rowspan.model.open_checkpoint import open_checkpoint, read_spec

HIDDEN, FFN, KV, VOCABULARY, LAYERS = 64, 128, 32, 320, 2
LAYER_WEIGHTS = LAYERS * (2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * FFN * HIDDEN)
NORM_BYTES = LAYERS * 2 * HIDDEN * 4


def demand(path: Path, *, tied: bool) -> Demand:
    checkpoint = open_checkpoint(TinyModel(scheme="Q8_0", vocab_size=VOCABULARY, tied=tied).write(path / "m.gguf"))
    return Demand.of(read_spec(checkpoint), checkpoint.tensors)


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_the_head_once_and_no_embedding(tmp_path: Path, tied: bool) -> None:
    weights = (LAYER_WEIGHTS + VOCABULARY * HIDDEN) * 34 // 32 + NORM_BYTES
    assert demand(tmp_path, tied=tied).step_bytes(0) == weights
    cached = LAYERS * 2 * KV * 2
    assert demand(tmp_path, tied=tied).step_bytes(10, sequences=3) == weights + 30 * cached


def test_a_prompt_has_one_row_of_logits_and_sees_what_is_before_it(tmp_path: Path) -> None:
    pairs = 1 + 2 + 3
    operations = 2 * (3 * LAYER_WEIGHTS + VOCABULARY * HIDDEN + pairs * 2 * LAYERS * HIDDEN)
    assert demand(tmp_path, tied=True).prompt_operations(3) == operations
