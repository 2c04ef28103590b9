"""A llama of real size with random weights, for measuring speed: made in seconds, and any engine loads it.

    PYTHONPATH=tests python -m kit.random_llama --scheme Q4_K_M llama-1b-q4_k_m.gguf
    PYTHONPATH=tests python -m kit.random_llama --shape 8b --threads 16 llama-8b-q8_0.gguf

Values are scaled as `kit.gguf_builder` scales them, so that activations keep their size over the layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from kit.gguf_builder import HALF_SCALES, LOGIT_SCALE, TinyModel, random_quants
from kit.gguf_bytes import gguf_string, gguf_value
from kit.gguf_stream import LazyTensor, write_gguf

FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15, "IQ4_XS": 30, "MXFP4": 38}  # general.file_type of what can be made
MXFP4_EXPONENT = 128 - 2  # of a block whose numbers, 0 to 12, deviate by about 1
UNIFORM_INT8_STD = 127 / 3**0.5
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "1b": {},
    "8b": {  # of Llama 3 8B
        "n_layers": 32,
        "hidden_size": 4096,
        "ffn_size": 14336,
        "vocab_size": 128256,
        "context_length": 32768,
        "tied": False,
    },
    "135m": {  # of SmolLM2 135M
        "n_layers": 30,
        "hidden_size": 576,
        "ffn_size": 1536,
        "n_heads": 9,
        "n_kv_heads": 3,
        "vocab_size": 49152,
    },
    "mixture": {  # 1B of 3.5B active
        "ffn_size": 4096,
        "experts": 8,
        "experts_used": 2,
    },
    "tiny": {  # of nothing, but with every kind of tensor that 8b has
        "n_layers": 2,
        "hidden_size": 256,
        "ffn_size": 512,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": 1024,
        "context_length": 32768,
        "tied": False,
    },
}


@dataclass(frozen=True)
class RandomLlama:
    """The default is about 1B parameters, shaped as Llama 3.2 1B with a smaller vocabulary; `SHAPES` has others.

    scheme: "Q8_0"; "Q4_K_M": Q4_K with Q6_K where llama.cpp's mix of that name has it; "IQ4_XS"; "MXFP4" of experts,
        all else Q8_0.
    tied: the embedding is the head, too.
    experts: of each layer, whose width is ffn_size; 0: a dense MLP.
    """

    scheme: str = "Q8_0"
    n_layers: int = 16
    hidden_size: int = 2048
    ffn_size: int = 8192
    n_heads: int = 32
    n_kv_heads: int = 8
    vocab_size: int = 32000
    context_length: int = 8192
    tied: bool = True
    experts: int = 0
    experts_used: int = 0
    seed: int = 0

    def write(self, path: Path, threads: int = 1) -> Path:
        """Write one file; a gigabyte takes a thread about two seconds."""
        model = TinyModel(
            n_layers=self.n_layers,
            hidden_size=self.hidden_size,
            ffn_size=self.ffn_size,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            tied=self.tied,
            name=f"Random llama {self.scheme}",
            extra={"general.file_type": FILE_TYPES[self.scheme], **self._mixture()},
        )
        metadata = [gguf_string(key) + gguf_value(value) for key, value in model.metadata().items()]
        return write_gguf(path, metadata, self.tensors(), threads)

    def _mixture(self) -> dict[str, Any]:
        if not self.experts:
            return {}
        return {"llama.expert_count": self.experts, "llama.expert_used_count": self.experts_used}

    def tensors(self) -> Iterator[LazyTensor]:
        """Every tensor has random numbers of its own, so that they may be made in any order."""
        numbers = count()
        hidden, ffn = self.hidden_size, self.ffn_size
        kv_size = hidden // self.n_heads * self.n_kv_heads

        def matrix(name: str, outputs: int, inputs: int, *, precise: bool = False) -> LazyTensor:
            scheme = {"Q4_K_M": "Q6_K" if precise else "Q4_K", "MXFP4": "Q8_0"}.get(self.scheme, self.scheme)
            make = partial(random_blocks, (self.seed, next(numbers)), scheme, outputs, inputs)
            return LazyTensor(f"{name}.weight", (outputs, inputs), scheme, make)

        def experts(name: str, outputs: int, inputs: int, *, precise: bool = False) -> LazyTensor:
            scheme = {"Q4_K_M": "Q6_K" if precise else "Q4_K"}.get(self.scheme, self.scheme)
            rows = self.experts * outputs
            make = partial(random_blocks, (self.seed, next(numbers)), scheme, rows, inputs)
            return LazyTensor(f"{name}_exps.weight", (self.experts, outputs, inputs), scheme, make)

        def router(name: str) -> LazyTensor:
            make = partial(random_floats, (self.seed, next(numbers)), self.experts, hidden)
            return LazyTensor(f"{name}.weight", (self.experts, hidden), "F32", make)

        def norm(name: str, weight: float = 1.0) -> LazyTensor:
            return LazyTensor(f"{name}.weight", (hidden,), "F32", partial(np.full, hidden, weight, np.float32))

        yield matrix("token_embd", self.vocab_size, hidden, precise=self.tied)
        for layer in range(self.n_layers):
            block, precise = f"blk.{layer}.", more_bits(layer, self.n_layers)
            yield norm(f"{block}attn_norm")
            yield matrix(f"{block}attn_q", hidden, hidden)
            yield matrix(f"{block}attn_k", kv_size, hidden)
            yield matrix(f"{block}attn_v", kv_size, hidden, precise=precise)
            yield matrix(f"{block}attn_output", hidden, hidden)
            yield norm(f"{block}ffn_norm")
            kind = experts if self.experts else matrix
            yield kind(f"{block}ffn_gate", ffn, hidden)
            yield kind(f"{block}ffn_up", ffn, hidden)
            yield kind(f"{block}ffn_down", hidden, ffn, precise=precise)
            if self.experts:
                yield router(f"{block}ffn_gate_inp")
        yield norm("output_norm", LOGIT_SCALE)
        if not self.tied:
            yield matrix("output", self.vocab_size, hidden, precise=True)


def more_bits(layer: int, n_layers: int) -> bool:
    """Whether llama.cpp's Q4_K_M gives this layer's attn_v and ffn_down Q6_K: the first and last eighth of the layers,
    and every third between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def random_blocks(seed: tuple[int, ...], scheme: str, rows: int, columns: int) -> np.ndarray:
    """Random bytes for codes, one scale for all blocks: as good as quantized noise, and many times faster to make."""
    random = np.random.Generator(np.random.SFC64(seed))
    std = columns**-0.5
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[scheme]]
    blocks = random_bytes(random, rows * columns // block_size * block_bytes).reshape(-1, block_bytes)
    if scheme == "Q8_0":
        np.maximum(blocks.view(np.int8), -127, out=blocks.view(np.int8))
        blocks[:, :2] = np.frombuffer(np.float16(std / UNIFORM_INT8_STD).tobytes(), np.uint8)
        return blocks
    if scheme == "MXFP4":
        blocks[:, 0] = MXFP4_EXPONENT - round(np.log2(columns) / 2)
        return blocks
    sample = random_quants(random, scheme, 64, columns, std)
    for at in HALF_SCALES[scheme][:2]:
        if at is not None:
            blocks[:, at : at + 2] = sample[0, at : at + 2]
    return blocks


def random_floats(seed: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
    """Weights of a router, whose logits deviate by 1."""
    logits: np.ndarray = np.random.default_rng(seed).standard_normal((rows, columns)) * columns**-0.5
    return logits.astype(np.float32)


def random_bytes(random: np.random.Generator, n_bytes: int) -> np.ndarray:
    """Eight at a time: ten times as fast as one by one."""
    return random.integers(0, 1 << 64, -(-n_bytes // 8), np.uint64).view(np.uint8)[:n_bytes]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a llama with random weights.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--scheme", choices=FILE_TYPES, default="Q8_0")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    RandomLlama(arguments.scheme, **SHAPES[arguments.shape]).write(arguments.path, arguments.threads)
