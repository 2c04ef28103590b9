"""ModelSpec: everything the rest of Rowspan needs to know about a model's shape, read from its metadata. No torch.

GGUF's metadata keys (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) are the common language; other
checkpoint formats translate theirs into them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class ModelFamily:
    """What an architecture name implies and no metadata key says.

    interleaved_rope: rotate neighbours (2i, 2i+1) instead of halves (i, i + d/2). GGUF files of these families have
        their q and k rows permuted for it.
    """

    interleaved_rope: bool


FAMILIES: Mapping[str, ModelFamily] = {
    "llama": ModelFamily(interleaved_rope=True),
    "mistral": ModelFamily(interleaved_rope=True),
    "qwen2": ModelFamily(interleaved_rope=False),
    "qwen3": ModelFamily(interleaved_rope=False),
}


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) and its scalings.

    scaling: "none", "linear" (positions divided by `factor`) or "yarn" (Peng et al. 2023). Llama-3 scaling arrives as
    the tensor `rope_freqs` (one divisor per pair), not as metadata.
    """

    dim: int
    base: float
    interleaved: bool
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    yarn_ext_factor: float = 1.0
    yarn_attn_factor: float = 1.0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a llama-like decoder. Sizes in elements, positions in tokens."""

    architecture: str
    name: str
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    context_length: int  # positions the model was trained for
    norm_eps: float
    rope: RopeSpec
    sliding_window: int | None
    tied_embeddings: bool

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], shapes: Mapping[TensorKey, tuple[int, ...]]) -> ModelSpec:
        """Read and check a model's shape.

        Raises:
            UnsupportedModelError: an architecture or scaling Rowspan does not know.
            CheckpointError: a key is missing or contradicts the tensors.
        """
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise CheckpointError(
                "The model file does not say what architecture it holds.",
                why="The metadata key general.architecture is missing.",
                fix="Convert the model again with a current converter.",
            )
        family = FAMILIES.get(architecture)
        if family is None:
            raise UnsupportedModelError(
                f"Architecture {architecture!r} is not supported.",
                why=f"Rowspan's own engine runs {', '.join(sorted(FAMILIES))}.",
                fix="Choose a model of one of these families.",
            )
        keys = _Keys(metadata, architecture)
        embedding = shapes.get(TensorKey(Role.EMBEDDING))
        if embedding is None or len(embedding) != 2:
            raise CheckpointError(
                "The model file has no usable token embedding.",
                why="The tensor token_embd.weight is missing or not a matrix.",
                fix="Fetch the file again; if it stays so, the conversion was incomplete.",
            )
        n_heads = keys.integer("attention.head_count")
        n_kv_heads = keys.integer("attention.head_count_kv", n_heads)
        hidden_size = keys.integer("embedding_length")
        spec = cls(
            architecture=architecture,
            name=_name(metadata, architecture),
            n_layers=keys.integer("block_count"),
            hidden_size=hidden_size,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=keys.integer("attention.key_length", hidden_size // n_heads),
            ffn_size=keys.integer("feed_forward_length"),
            vocab_size=embedding[0],
            context_length=keys.integer("context_length"),
            norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
            rope=_rope(keys, family, hidden_size // n_heads),
            sliding_window=keys.optional_integer("attention.sliding_window"),
            tied_embeddings=TensorKey(Role.HEAD) not in shapes,
        )
        spec._check(keys, shapes)
        return spec

    def expected_shape(self, key: TensorKey) -> tuple[int, ...]:
        """Shape of a tensor as `x @ weight.T` wants it: (outputs, inputs), or (length,) for vectors."""
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        outputs = {Role.Q: q_size, Role.K: kv_size, Role.V: kv_size, Role.GATE: self.ffn_size, Role.UP: self.ffn_size}
        inputs = {Role.O: q_size, Role.DOWN: self.ffn_size}
        match key.role:
            case Role.EMBEDDING | Role.HEAD:
                matrix = (self.vocab_size, self.hidden_size)
            case Role.Q_NORM | Role.K_NORM:
                return (self.head_dim,)
            case Role.ROPE_FREQS:
                return (self.rope.dim // 2,)
            case Role.ATTN_NORM | Role.FFN_NORM | Role.FINAL_NORM:
                return (self.hidden_size,)
            case role:
                matrix = (outputs.get(role, self.hidden_size), inputs.get(role, self.hidden_size))
        return matrix if key.part == "weight" else matrix[:1]

    def required_tensors(self) -> list[TensorKey]:
        """Every tensor without which the model cannot run."""
        roles = (Role.ATTN_NORM, Role.Q, Role.K, Role.V, Role.O, Role.FFN_NORM, Role.GATE, Role.UP, Role.DOWN)
        layered = [TensorKey(role, layer) for layer in range(self.n_layers) for role in roles]
        return [TensorKey(Role.EMBEDDING), TensorKey(Role.FINAL_NORM), *layered]

    def _check(self, keys: _Keys, shapes: Mapping[TensorKey, tuple[int, ...]]) -> None:
        if self.n_heads % self.n_kv_heads:
            raise keys.contradiction(f"{self.n_heads} heads cannot share {self.n_kv_heads} KV heads evenly")
        value_length = keys.integer("attention.value_length", self.head_dim)
        if value_length != self.head_dim:
            raise keys.contradiction(f"key length {self.head_dim} differs from value length {value_length}")
        if self.rope.dim % 2 or self.rope.dim > self.head_dim:
            raise keys.contradiction(f"rope dimension {self.rope.dim} does not fit a head of {self.head_dim}")
        # A header may claim any number of layers: compare with the tensors that are there before listing what is due.
        held = {key.layer for key in shapes if key.layer is not None}
        if self.n_layers != len(held):
            raise keys.contradiction(f"{self.n_layers} layers are announced, tensors of {len(held)} are there")
        for key in self.required_tensors():
            if key not in shapes:
                raise keys.contradiction(f"the tensor {_describe(key)} is missing")
        for key, shape in shapes.items():
            if shape != self.expected_shape(key):
                raise keys.contradiction(f"{_describe(key)} has shape {shape}, not {self.expected_shape(key)}")


def _name(metadata: Mapping[str, Any], architecture: str) -> str:
    name = metadata.get("general.name")
    return name if isinstance(name, str) and name else architecture


def _describe(key: TensorKey) -> str:
    layer = "" if key.layer is None else f" of layer {key.layer}"
    return f"{key.role} {key.part}{layer}"


def _rope(keys: _Keys, family: ModelFamily, default_dim: int) -> RopeSpec:
    context = keys.integer("context_length")
    scaling = keys.text("rope.scaling.type", "none")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if scaling == "none" and factor != 1.0 and keys.get("rope.scaling.type") is None:
        scaling = "linear"  # files from before rope.scaling.type existed
    if scaling not in ("none", "linear", "yarn"):
        raise UnsupportedModelError(
            f"RoPE scaling {scaling!r} is not supported.",
            why="Rowspan knows none, linear, yarn, and Llama-3 scaling through rope_freqs.",
            fix="Choose another conversion of this model.",
        )
    if scaling != "none" and factor <= 0:
        raise keys.contradiction(f"the RoPE scaling factor is {factor}")
    return RopeSpec(
        dim=keys.integer("rope.dimension_count", keys.integer("attention.key_length", default_dim)),
        base=keys.number("rope.freq_base", 10000.0),
        interleaved=family.interleaved_rope,
        scaling=scaling,
        factor=factor,
        original_context=keys.integer("rope.scaling.original_context_length", context),
        yarn_ext_factor=keys.number("rope.scaling.yarn_ext_factor", 1.0),
        yarn_attn_factor=keys.number("rope.scaling.attn_factor", keys.number("rope.scaling.yarn_attn_factor", 1.0)),
        yarn_beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        yarn_beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
    )


class _Keys:
    """Typed access to one architecture's metadata keys."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata = metadata
        self._prefix = architecture

    def get(self, key: str) -> Any:
        return self._metadata.get(f"{self._prefix}.{key}")

    def integer(self, key: str, default: int | None = None) -> int:
        """A count or size: a positive integer."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise self.contradiction(f"{self._prefix}.{key} is {_short(value)}, a positive integer is due")
        return value

    def optional_integer(self, key: str) -> int | None:
        """A size that may be absent; 0 means absent."""
        value = self.get(key)
        absent = value is None or (isinstance(value, int) and value == 0)
        return None if absent else self.integer(key)

    def text(self, key: str, default: str) -> str:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.contradiction(f"{self._prefix}.{key} is {_short(value)}, a word is due")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.contradiction(f"{self._prefix}.{key} is {_short(value)}, a number is due")
        return float(value)

    def contradiction(self, why: str) -> CheckpointError:
        return CheckpointError(
            "The model file contradicts itself.",
            why=f"In its metadata or tensors: {why}.",
            fix="Fetch the file again; if it stays so, the conversion was faulty.",
        )


def _short(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]
