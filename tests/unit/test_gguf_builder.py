"""The synthetic models themselves: sound by the gguf package's reader, and of the shape that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from kit.gguf_builder import TinyModel, vector
from kit.gguf_bytes import RawTensor, gguf_bytes

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import UnsupportedModelError
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.quant.scheme import SCHEMES

FAMILIES: list[dict[str, Any]] = [
    {},
    {"rope_freqs": True, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_context_length": 64}},
    {"architecture": "mistral", "tokenizer": "spm", "sliding_window": 16, "tied": False},
    {"architecture": "qwen2", "pre": "qwen2", "vocab_size": 400},
    {"architecture": "qwen3", "head_dim": 32, "n_heads": 6, "n_kv_heads": 3},
]


@pytest.mark.parametrize("options", FAMILIES)
def test_spec_of_every_family(tmp_path: Path, options: dict[str, Any]) -> None:
    model = TinyModel(**options)
    checkpoint = open_checkpoint(model.write(tmp_path / "m.gguf"))
    spec = read_spec(checkpoint)
    assert checkpoint.unknown_tensors == []
    assert (spec.architecture, spec.n_layers, spec.hidden_size) == (model.architecture, 2, 64)
    (layer,) = spec.layer_kinds
    mixer = layer.mixer
    assert (mixer.n_heads, mixer.n_kv_heads, layer.mlp_width) == (model.n_heads, model.n_kv_heads, 128)
    assert (mixer.key_size, mixer.value_size) == (model.head_dim or 16,) * 2
    assert spec.vocab_size == len(checkpoint.metadata["tokenizer.ggml.tokens"])
    assert spec.vocab_size == (model.vocab_size or spec.vocab_size)
    assert spec.tied_embeddings is model.tied
    assert mixer.window == model.sliding_window
    assert mixer.rope is not None
    assert mixer.rope.scaling == (model.rope_scaling or {"type": "none"})["type"]


@pytest.mark.parametrize("options", FAMILIES)
def test_the_gguf_package_reads_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    path = TinyModel(**options, scheme="Q8_0").write(tmp_path / "m.gguf")
    reader, checkpoint = gguf.GGUFReader(path), open_checkpoint(path)
    for key, value in checkpoint.metadata.items():
        expected = reader.get_field(key).contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected
    assert len(reader.tensors) == len(checkpoint.tensors)
    for tensor, (tensor_key, shape) in zip(reader.tensors, checkpoint.shapes.items(), strict=True):  # in file order
        assert shape == tuple(reversed(tensor.shape.tolist()))
        np.testing.assert_array_equal(checkpoint.read(tensor_key).blocks.ravel(), tensor.data.view(np.uint8).ravel())


def test_an_embedding_with_a_scale_is_refused(tmp_path: Path) -> None:
    """Its rows are looked up as they are."""
    model = TinyModel(scheme="NVFP4", tensor_scales=True)
    read_spec(open_checkpoint(model.write(tmp_path / "m.gguf")))
    tensors = [*model.tensors(), vector("token_embd.scale", np.ones(1))]
    (tmp_path / "scaled.gguf").write_bytes(gguf_bytes(model.metadata(), tensors))
    with pytest.raises(UnsupportedModelError, match="embedding scale"):
        read_spec(open_checkpoint(tmp_path / "scaled.gguf"))


def test_the_scale_of_fused_matrices_is_that_of_each(tmp_path: Path) -> None:
    model = TinyModel("phi3", scheme="NVFP4", n_layers=1)
    tensors = {tensor.name: tensor for tensor in model.tensors()}
    parts = [tensors.pop(f"blk.0.attn_{name}.weight") for name in "qkv"]
    rows = sum(part.shape[0] for part in parts)
    fused = RawTensor("blk.0.attn_qkv.weight", (rows, 64), parts[0].ggml_type, b"".join(part.data for part in parts))
    scale = vector("blk.0.attn_qkv.scale", np.full(1, 0.75))
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(model.metadata(), [*tensors.values(), fused, scale]))
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    for role in (Role.Q, Role.K, Role.V):
        found = checkpoint.read(TensorKey(role, 0, "scale"))
        assert found.blocks.view(np.float32).tolist() == [[0.75]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_keep_signals_in_size(scheme: str) -> None:
    weight = TinyModel(scheme=scheme, hidden_size=256, ffn_size=256, n_layers=1).weights()["blk.0.ffn_up.weight"]
    assert weight.std() * 16 == pytest.approx(1, rel=0.02)
    assert abs(weight.mean() * 16) < 0.05


def test_same_seed_same_bytes() -> None:
    assert TinyModel(seed=1, scheme="Q4_1").to_bytes() == TinyModel(seed=1, scheme="Q4_1").to_bytes()
    assert TinyModel(seed=1).to_bytes() != TinyModel(seed=2).to_bytes()


def test_single_tensors_may_differ_in_scheme(tmp_path: Path) -> None:
    model = TinyModel(scheme="Q4_0", schemes={"ffn_down": "F16", "token_embd": "Q8_0"})
    tensors = open_checkpoint(model.write(tmp_path / "m.gguf")).tensors
    assert {(key.role, info.scheme) for key, info in tensors.items() if len(info.shape) == 2} == {
        ("embedding", "Q8_0"),
        ("down", "F16"),
        *((role, "Q4_0") for role in ("q", "k", "v", "o", "gate", "up")),
    }
