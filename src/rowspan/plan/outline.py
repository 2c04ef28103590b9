"""A model as planning sees it: what `split` cuts, what it does not know but must be counted, what a position's keys and
values take. Made from a shape and its tensors, whichever way these became known.

Rowspan's split knows dense models. A mixture's experts stand side by side as one wide MLP: the same bytes, cut the same
way. Tensors without a role (a router, shared experts, latent attention) are counted by layer; matrices are taken to be
cut evenly where a layer is cut, vectors to be held whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.gguf_layout import ListedTensor, tensors_of
from rowspan.checkpoint.shape import Shape
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.spec import ModelSpec, RopeSpec
from rowspan.plan.fit import AlikeTensors, alike_tensors, cache_bytes
from rowspan.plan.quantize import EXACT_FOR, quantization, quantized


@dataclass(frozen=True)
class Rest:
    """Bytes of a layer's tensors that have no role in a split."""

    cut: int = 0
    whole: int = 0


@dataclass(frozen=True)
class LayerCacheShape:
    """Elements that a layer keeps of one position.

    per_head: of a KV head's keys, and of its values. shared: of what all heads use, and all ranks of a stage hold.
    window: positions kept at most; None: all.
    """

    per_head: tuple[int, int]
    shared: int
    window: int | None

    def position_bytes(self, heads: int, types: tuple[str, str]) -> int:
        """Of so many KV heads. types: of keys, and of values."""
        own = sum(cache_bytes(elements, kind) for elements, kind in zip(self.per_head, types, strict=True))
        return heads * own + cache_bytes(self.shared, types[0])


@dataclass(frozen=True, eq=False)
class Outline:
    """label: "llama-3-70b Q8_0". tensors: those that a split cuts. routed: bytes of experts, of which a token meets
    `routed_share`. notes: what is only approximate about it."""

    shape: Shape
    scheme: str
    listed: tuple[ListedTensor, ...]
    spec: ModelSpec
    tensors: Mapping[TensorKey, TensorInfo]
    rest: tuple[Rest, ...]
    cache: tuple[LayerCacheShape, ...]
    file_bytes: int
    routed_bytes: int
    parameters: int
    active_weights: int  # elements of the layers' matrices that a token meets
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.shape.name if self.scheme in self.shape.name.split() else f"{self.shape.name} {self.scheme}"

    @property
    def routed_share(self) -> float:
        return self.shape.experts_used / self.shape.experts if self.shape.experts else 1.0

    @cached_property
    def kinds(self) -> list[AlikeTensors]:
        """`tensors`, sorted for `shard_bytes`."""
        return alike_tensors(self.tensors)

    @property
    def resident_bytes(self) -> int:
        """All weights but an embedding that is only looked up."""
        embedding = self.tensors.get(TensorKey(Role.EMBEDDING))
        return self.file_bytes - (0 if self.shape.tied or embedding is None else embedding.nbytes)

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that one token's step reads: not those of experts that it is not sent to."""
        return self.resident_bytes - round(self.routed_bytes * (1 - self.routed_share))

    @lru_cache(maxsize=64)  # noqa: B019 - short-lived command, and every rig asks for the same few
    def requantized(self, name: str) -> Outline:
        """The same model in another quantization, by llama.cpp's rules.

        Raises:
            UsageError: unknown quantization.
        """
        name = quantization(name)
        infos = quantized(self.listed, self.shape, name)
        sure = name in ("F32", "F16", "BF16", "Q8_0") or self.shape.architecture in EXACT_FOR
        note = f"{name} is counted by llama-quantize's rules for llama; {self.shape.architecture} may differ a little."
        return outline(self.shape, self.listed, infos, name, () if sure else (note,))


def outline_of_shape(shape: Shape, scheme: str) -> Outline:
    """A model that would be quantized so.

    Raises:
        UsageError: unknown quantization.
    """
    listed = tensors_of(shape)
    return outline(shape, listed, [TensorInfo(each.shape, "F32", 0) for each in listed], "F32").requantized(scheme)


def outline(
    shape: Shape, listed: Sequence[ListedTensor], infos: Sequence[TensorInfo], scheme: str, notes: tuple[str, ...] = ()
) -> Outline:
    """Sort a model's tensors. infos: how each of `listed` is stored."""
    spec = _spec(shape)
    tensors: dict[TensorKey, TensorInfo] = {}
    expected: dict[tuple[Role, str], tuple[int, ...]] = {}  # by what `expected_shape` goes by
    rest = [Rest() for _ in range(shape.layers)]
    routed = active = 0
    for tensor, info in zip(listed, infos, strict=True):
        if tensor.is_routed:
            routed += info.nbytes
        if tensor.layer is not None and len(tensor.shape) > 1:
            share = shape.experts_used / shape.experts if tensor.is_routed and shape.experts else 1.0
            active += round(tensor.elements * share)
        key = tensor.key
        if key is not None and (key.role, key.part) not in expected:
            expected[key.role, key.part] = spec.expected_shape(key)
        if key is not None and tensor.shape == expected[key.role, key.part]:
            tensors[key] = info
        else:
            place = -1 if tensor.layer is None else tensor.layer  # what is outside the layers goes with the last
            cut, whole = (0, info.nbytes) if len(tensor.shape) == 1 else (info.nbytes, 0)
            rest[place] = Rest(rest[place].cut + cut, rest[place].whole + whole)
    return Outline(
        shape=shape,
        scheme=scheme,
        listed=tuple(listed),
        spec=spec,
        tensors=tensors,
        rest=tuple(rest),
        cache=tuple(_cache(shape, layer) for layer in range(shape.layers)),
        file_bytes=sum(info.nbytes for info in infos),
        routed_bytes=routed,
        parameters=sum(tensor.elements for tensor in listed),
        active_weights=active,
        notes=notes,
    )


def _spec(shape: Shape) -> ModelSpec:
    """The dense model that is cut in this one's stead. What only computing needs is left at its defaults."""
    return ModelSpec(
        architecture=shape.architecture,
        name=shape.name,
        n_layers=shape.layers,
        hidden_size=shape.hidden,
        n_heads=shape.heads,
        n_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        ffn_size=shape.mlp_width,
        vocab_size=shape.vocab,
        context_length=shape.context,
        norm_eps=1e-5,
        rope=RopeSpec(shape.head_dim, 1e4, interleaved=False),
        sliding_window=None,
        tied_embeddings=shape.tied,
    )


def _cache(shape: Shape, layer: int) -> LayerCacheShape:
    if shape.kv_rank:
        return LayerCacheShape((0, 0), shape.kv_rank + shape.rope_head, None)
    return LayerCacheShape((shape.head_dim, shape.head_dim), 0, shape.window_of(layer))
