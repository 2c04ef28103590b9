"""The models that speed is measured with: sound, of the shape and schemes that were asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest
from kit.gguf_builder import TinyModel
from kit.random_llama import SHAPES, RandomLlama, more_bits
from kit.requantize import requantize

from rowspan.model.open_checkpoint import open_checkpoint, read_spec


@pytest.mark.parametrize(
    ("scheme", "schemes"),
    [("Q8_0", {"Q8_0": 15}), ("Q4_K_M", {"Q6_K": 3, "Q4_K": 12})],
)
def test_a_small_one_is_read_by_all(tmp_path: Path, scheme: str, schemes: dict[str, int]) -> None:
    small = RandomLlama(scheme, n_layers=2, hidden_size=256, ffn_size=512, n_heads=4, n_kv_heads=2, vocab_size=400)
    path = small.write(tmp_path / "m.gguf")

    checkpoint = open_checkpoint(path)
    spec = read_spec(checkpoint)
    assert checkpoint.unknown_tensors == []
    (layer,) = spec.layer_kinds
    assert (spec.n_layers, spec.hidden_size, layer.mlp_width, spec.vocab_size) == (2, 256, 512, 400)
    mixer = layer.mixer
    assert (mixer.n_heads, mixer.n_kv_heads, mixer.key_size, spec.context_length) == (4, 2, 64, 8192)

    tensors = gguf.GGUFReader(path).tensors
    assert Counter(tensor.tensor_type.name for tensor in tensors) == {"F32": 5, **schemes}
    for tensor in tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 2:
            assert values.std() * values.shape[1] ** 0.5 == pytest.approx(1, rel=0.1), tensor.name


def test_threads_write_the_same_file(tmp_path: Path) -> None:
    small = RandomLlama("Q4_K_M", **SHAPES["tiny"])
    one, four = small.write(tmp_path / "1.gguf"), small.write(tmp_path / "4.gguf", threads=4)
    assert one.read_bytes() == four.read_bytes()
    names = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(four).tensors}
    assert (names["token_embd.weight"], names["output.weight"]) == ("Q4_K", "Q6_K")


def test_half_of_the_layers_of_q4_k_m_have_more_bits() -> None:
    assert [layer for layer in range(16) if more_bits(layer, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


def test_requantized_model_is_the_same_model(tmp_path: Path) -> None:
    model = TinyModel(scheme="Q4_1", extra={"general.file_type": 3})
    source = open_checkpoint(model.write(tmp_path / "in.gguf"))
    result = open_checkpoint(requantize(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q8_0"))
    assert result.metadata.keys() == source.metadata.keys()
    for key, value in source.metadata.items():
        np.testing.assert_array_equal(result.metadata[key], 7 if key == "general.file_type" else value)
    assert result.shapes == source.shapes
    before, after = model.weights(), gguf.GGUFReader(tmp_path / "out.gguf").tensors
    for tensor in after:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(values, before[tensor.name], atol=float(np.abs(values).max()) / 200)
    assert {tensor.tensor_type.name for tensor in after} == {"F32", "Q8_0"}
