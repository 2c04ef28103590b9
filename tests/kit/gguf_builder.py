"""Synthetic models of any family, shape and quantization, in milliseconds.

Weights are random, scaled by 1 / sqrt(fan-in) so that signals keep their size, and the final norm is large enough that
greedy decoding has clear winners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from kit.gguf_bytes import RawTensor, gguf_bytes
from kit.quantized import set_half
from kit.vocabulary import CHATML, INST, bpe, spm

LOGIT_SCALE = 3.0  # about the standard deviation of the logits
HALF_SCALES = {  # what the gguf package cannot make: byte of d, byte of dmin, dmin / d that centres the values
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0.0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0.0),
    "IQ4_NL": (0, None, 0.0),
    "IQ4_XS": (0, None, 0.0),
    "IQ3_S": (0, None, 0.0),
    "IQ3_XXS": (0, None, 0.0),
    "IQ2_S": (0, None, 0.0),
    "IQ2_XS": (0, None, 0.0),
    "IQ2_XXS": (0, None, 0.0),
    "IQ1_M": (48, None, 0.0),
    "IQ1_S": (0, None, 0.0),
    "TQ2_0": (64, None, 0.0),
    "TQ1_0": (52, None, 0.0),
}
LOPSIDED = ("IQ4_NL", "TQ2_0")  # random codes' mean is not zero: half the blocks are the other way round


@dataclass(frozen=True)
class TinyModel:
    """A model to be written as GGUF. `None` means what the architecture does by default.

    schemes: weight schemes of single tensors, by name without block and ".weight": {"ffn_down": "Q6_K"}. Norms, biases
        and rope_freqs are always F32. Rows of Q8_0…Q5_1 and IQ4_NL are multiples of 32, those of K-quants and
        IQ4_XS of 256.
    tensor_scales: matrices but the embedding have a scale in a tensor of their own, as in files of NVFP4.
    norm_type: GGUF's type of the norms' vectors.
    rope_scaling: the keys below `rope.scaling`: {"type": "yarn", "factor": 4.0, "original_context_length": 64}.
    extra: metadata to add, or to replace; None removes a key.
    """

    architecture: str = "llama"
    n_layers: int = 2
    hidden_size: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int | None = None
    ffn_size: int = 128
    vocab_size: int | None = None
    context_length: int = 256
    scheme: str = "F32"
    schemes: Mapping[str, str] = field(default_factory=dict)
    tensor_scales: bool = False
    norm_type: str = "F32"
    tied: bool = True
    qk_norm: bool | None = None
    bias: bool | None = None
    rope_base: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    rope_freqs: bool = False
    sliding_window: int | None = None
    tokenizer: str = "bpe"  # or "spm"
    pre: str = "smollm"
    chat_template: str | None = "default"
    name: str = "Tiny"
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path, version: int = 3) -> Path:
        """Write one file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes(version))
        return path

    def to_bytes(self, version: int = 3) -> bytes:
        """The one file `write` writes."""
        return gguf_bytes(self.metadata(), self.tensors(), version=version)

    def write_split(self, folder: Path, parts: int, stem: str = "tiny") -> list[Path]:
        """Write several files, all metadata in the first, as gguf-split does."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors()
        paths: list[Path] = []
        for number in range(parts):
            mine = tensors[len(tensors) * number // parts : len(tensors) * (number + 1) // parts]
            split = {
                "split.no": np.uint16(number),
                "split.count": np.uint16(parts),
                "split.tensors.count": np.int32(len(tensors)),
            }
            path = folder / f"{stem}-{number + 1:05}-of-{parts:05}.gguf"
            path.write_bytes(gguf_bytes((self.metadata() if number == 0 else {}) | split, mine))
            paths.append(path)
        return paths

    def weights(self) -> dict[str, np.ndarray]:
        """Every tensor by its full GGUF name, dequantized to float32 by the gguf package."""
        weights: dict[str, np.ndarray] = {}
        for tensor in self.tensors():
            raw = np.frombuffer(tensor.data, np.uint8).reshape(*tensor.shape[:-1], -1)
            if tensor.ggml_type == gguf.GGMLQuantizationType.F64:
                weights[tensor.name] = raw.view(np.float64).astype(np.float32)
            else:
                weights[tensor.name] = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(tensor.ggml_type))
        for name in [name for name in weights if name.endswith("scale")]:
            scale, (stem, _, part) = weights.pop(name), name.rpartition(".")
            if part == "scale":
                weights[f"{stem}.weight"] *= scale
        return weights

    def metadata(self) -> dict[str, Any]:
        model = {
            "block_count": self.n_layers,
            "context_length": self.context_length,
            "embedding_length": self.hidden_size,
            "feed_forward_length": self.ffn_size,
            "attention.head_count": self.n_heads,
            "attention.head_count_kv": self.n_kv_heads,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.freq_base": self.rope_base,
        }
        if self.head_dim is not None or self.architecture == "qwen3":
            model |= {"attention.key_length": self._head_dim, "attention.value_length": self._head_dim}
        if not self.architecture.startswith("qwen"):
            model["rope.dimension_count"] = self._head_dim
        if self.sliding_window is not None:
            model["attention.sliding_window"] = self.sliding_window
        model |= {f"rope.scaling.{key}": value for key, value in (self.rope_scaling or {}).items()}
        metadata = {
            "general.architecture": self.architecture,
            "general.type": "model",
            "general.name": self.name,
            **{f"{self.architecture}.{key}": value for key, value in model.items()},
            **self._vocabulary(),
            **self.extra,
        }
        return {key: value for key, value in metadata.items() if value is not None}

    def tensors(self) -> list[RawTensor]:
        random = np.random.default_rng(self.seed)
        q_size, kv_size = self.n_heads * self._head_dim, self.n_kv_heads * self._head_dim
        vocab_size = len(self._vocabulary()["tokenizer.ggml.tokens"])
        hidden, ffn = self.hidden_size, self.ffn_size
        bias = self.architecture == "qwen2" if self.bias is None else self.bias
        qk_norm = self.architecture == "qwen3" if self.qk_norm is None else self.qk_norm

        def norm(name: str, size: int, scale: float = 1.0) -> RawTensor:
            return vector(name, scale * (1 + 0.1 * random.standard_normal(size)))

        tensors = [self._matrix(random, "token_embd", vocab_size, hidden)]
        if self.rope_freqs:
            tensors.append(vector("rope_freqs.weight", np.geomspace(1, 8, self._head_dim // 2)))
        for layer in range(self.n_layers):
            block = f"blk.{layer}."
            tensors += [
                norm(f"{block}attn_norm.weight", hidden),
                self._matrix(random, f"{block}attn_q", q_size, hidden),
                self._matrix(random, f"{block}attn_k", kv_size, hidden),
                self._matrix(random, f"{block}attn_v", kv_size, hidden),
                self._matrix(random, f"{block}attn_output", hidden, q_size),
                norm(f"{block}ffn_norm.weight", hidden),
                self._matrix(random, f"{block}ffn_gate", ffn, hidden),
                self._matrix(random, f"{block}ffn_up", ffn, hidden),
                self._matrix(random, f"{block}ffn_down", hidden, ffn),
            ]
            if bias:
                sizes = {"attn_q": q_size, "attn_k": kv_size, "attn_v": kv_size}
                tensors += [vector(f"{block}{n}.bias", 0.3 * random.standard_normal(s)) for n, s in sizes.items()]
            if qk_norm:
                tensors += [norm(f"{block}{n}.weight", self._head_dim) for n in ("attn_q_norm", "attn_k_norm")]
        tensors.append(norm("output_norm.weight", hidden, LOGIT_SCALE))
        if not self.tied:
            tensors.append(self._matrix(random, "output", vocab_size, hidden))
        if self.tensor_scales:
            stems = [tensor.name.removesuffix(".weight") for tensor in tensors if len(tensor.shape) > 1][1:]
            for part in ("scale", "input_scale"):
                tensors += [vector(f"{stem}.{part}", random.uniform(0.5, 1.5, 1)) for stem in stems]
        return [self._as_norm(tensor) if tensor.name.endswith("norm.weight") else tensor for tensor in tensors]

    def _as_norm(self, tensor: RawTensor) -> RawTensor:
        numpy_type = {"F32": "<f4", "F64": "<f8"}[self.norm_type]
        values = np.frombuffer(tensor.data, "<f4").astype(numpy_type)
        number = gguf.GGMLQuantizationType[self.norm_type].value
        return RawTensor(tensor.name, tensor.shape, number, values.tobytes())

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.n_heads

    def _vocabulary(self) -> dict[str, Any]:
        chat_template = self.chat_template
        if self.tokenizer == "bpe":
            return bpe(self.vocab_size, self.pre, CHATML if chat_template == "default" else chat_template)
        return spm(self.vocab_size, INST if chat_template == "default" else chat_template)

    def _matrix(self, random: np.random.Generator, name: str, outputs: int, inputs: int) -> RawTensor:
        scheme = self.schemes.get(name.split(".")[-1], self.scheme)
        ggml_type = gguf.GGMLQuantizationType[scheme]
        std = inputs**-0.5
        if scheme in HALF_SCALES or scheme == "NVFP4":
            raw = random_quants(random, scheme, outputs, inputs, std)
        else:
            raw = gguf.quants.quantize((std * random.standard_normal((outputs, inputs))).astype(np.float32), ggml_type)
        return RawTensor(f"{name}.weight", (outputs, inputs), ggml_type.value, raw.tobytes())


def vector(name: str, values: np.ndarray) -> RawTensor:
    return RawTensor(name, values.shape, gguf.GGMLQuantizationType.F32.value, values.astype("<f4").tobytes())


def random_quants(random: np.random.Generator, scheme: str, rows: int, columns: int, std: float) -> np.ndarray:
    """Random blocks of a scheme of HALF_SCALES, or of NVFP4, [rows, bytes per row] uint8: values have about this
    deviation."""
    ggml_type = gguf.GGMLQuantizationType[scheme]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[ggml_type]
    if columns % block_size:
        raise ValueError(f"{columns} columns are not whole {scheme} blocks of {block_size}")
    blocks = random.integers(0, 256, (rows * columns // block_size, block_bytes), np.uint8)
    if scheme == "NVFP4":
        return nvfp4_scaled(random, blocks, std).reshape(rows, -1)
    d_at, dmin_at, ratio = HALF_SCALES[scheme]
    signs = np.ones(len(blocks))
    if scheme in LOPSIDED:
        signs[::2] = -1

    def set_scale(d: float) -> None:
        for at, value in ((d_at, d), (dmin_at, d * ratio)):
            if at is not None:
                set_half(scheme, blocks, at, signs * value)

    set_scale(1.0)
    set_scale(std / float(gguf.quants.dequantize(blocks, ggml_type).std()))
    return blocks.reshape(rows, -1)


def nvfp4_scaled(random: np.random.Generator, blocks: np.ndarray, std: float) -> np.ndarray:
    """Give blocks of NVFP4 scales by which values have about this deviation: of two neighbouring E4M3, chosen so often
    that their mean square is right.
    """
    kind = gguf.GGMLQuantizationType.NVFP4
    every = np.zeros((128, blocks.shape[1]), np.uint8)
    every[:, :4], every[:, 4:] = np.arange(128)[:, None], 0x11  # codes that stand for 1
    scales = gguf.quants.dequantize(every, kind)[:127, 0].astype(float)
    table = np.array([0, 1, 2, 3, 4, 6, 8, 12])
    wanted = std**2 / float((table**2).mean())
    upper = int(np.searchsorted(scales**2, wanted))
    share = (wanted - scales[upper - 1] ** 2) / (scales[upper] ** 2 - scales[upper - 1] ** 2)
    blocks[:, :4] = upper - (random.random((len(blocks), 4)) >= share)
    return blocks
