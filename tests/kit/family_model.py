"""Small random models of any family: what tensors there are follows from the family's own description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from kit.gguf_builder import LOGIT_SCALE
from kit.gguf_bytes import RawTensor, gguf_bytes
from kit.vocabulary import CHATML, bpe

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.families.registry import all_families, name_of, spec_of
from rowspan.model.header import ModelHeader
from rowspan.model.roles import ROLES, required_tensors, shape_of
from rowspan.model.spec import ModelSpec

Array = Any  # NumPy's
SIZES: Mapping[str, Any] = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
}


@dataclass(frozen=True)
class FamilyModel:
    """sizes: metadata without the architecture's prefix, beside or in place of `SIZES`; None takes one away. scheme: of
    matrices; norms, biases and other vectors are F32. More tensors than the family's default: `also`, roles and parts
    that every layer has. factors: of the tensor rope_freqs. extra: metadata without any prefix."""

    architecture: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = True
    scheme: str = "F32"
    also: tuple[tuple[Role, str], ...] = ()
    factors: tuple[float, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @cached_property
    def metadata(self) -> dict[str, Any]:
        sizes = {key: value for key, value in {**SIZES, **self.sizes}.items() if value is not None}
        return {
            "general.architecture": self.architecture,
            "general.name": f"Random {self.architecture}",
            **{f"{self.architecture}.{key}": value for key, value in sizes.items()},
            **bpe(None, "smollm", CHATML),
            **self.extra,
        }

    @cached_property
    def spec(self) -> ModelSpec:
        vocab_size = len(self.metadata["tokenizer.ggml.tokens"])
        header = ModelHeader(self.metadata, vocab_size, self.tied)
        first = spec_of(header)
        keys = [*required_tensors(first)]
        keys += [TensorKey(role, layer, part) for layer in range(first.n_layers) for role, part in self.also]
        return spec_of(ModelHeader(self.metadata, vocab_size, self.tied, dict.fromkeys(keys, ())))

    @cached_property
    def weights(self) -> dict[TensorKey, Array]:
        """Every tensor as float32, as the file has it: scaled by 1/√inputs, norms about 1, biases smaller."""
        return {key: self._dequantized(key, raw) for key, raw in self._raw.items()}

    def write(self, path: Path) -> Path:
        """Fused where the family has tensors fused."""
        tensors = {
            name_of(key, self.architecture): (shape_of(self.spec, key), self._type(key).value, raw.tobytes())
            for key, raw in self._raw.items()
        }
        header = ModelHeader(self.metadata, 0, self.tied)
        for layer in range(self.spec.n_layers):
            for name, parts_of in all_families()[self.architecture].fused.items():
                parts = [f"blk.{layer}.{part}.weight" for part, _ in parts_of(header, layer, 2)]
                held = [tensors.pop(part) for part in parts]
                shape = (sum(shape[0] for shape, _, _ in held), *held[0][0][1:])
                tensors[f"blk.{layer}.{name}.weight"] = (shape, held[0][1], b"".join(raw for _, _, raw in held))
        path.write_bytes(gguf_bytes(self.metadata, [RawTensor(name, *tensor) for name, tensor in tensors.items()]))
        return path

    @cached_property
    def _raw(self) -> dict[TensorKey, Array]:
        random = np.random.default_rng(self.seed)
        raw = {key: self._random(key, random) for key in required_tensors(self.spec)}
        return raw | ({TensorKey(Role.ROPE_FREQS): np.array([self.factors], np.float32)} if self.factors else {})

    def _random(self, key: TensorKey, random: np.random.Generator) -> Array:
        shape = shape_of(self.spec, key)
        values = random.standard_normal(shape)
        if ROLES[key.role].is_norm or key.role in (Role.EXPERT_SCALES, Role.OUTPUT_SCALE):
            values = (LOGIT_SCALE if key.role is Role.FINAL_NORM else 1.0) * (1 + 0.1 * values)
        elif len(shape) == 1:
            values *= 0.3
        else:
            values *= shape[-1] ** -0.5
        rows = values.astype(np.float32).reshape(-1, shape[-1])
        return gguf.quants.quantize(rows, self._type(key))

    def _type(self, key: TensorKey) -> gguf.GGMLQuantizationType:
        is_matrix = len(shape_of(self.spec, key)) > 1 and key.role is not Role.ROUTER
        return gguf.GGMLQuantizationType[self.scheme if is_matrix else "F32"]

    def _dequantized(self, key: TensorKey, raw: Array) -> Array:
        shape = shape_of(self.spec, key)
        values = gguf.quants.dequantize(raw, self._type(key)).reshape(shape)
        assert values.size == math.prod(shape)
        return values
