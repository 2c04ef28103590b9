"""A model as planning sees it: its spec, how each tensor is stored, and tensors that must be counted although no family
knows their role. It is made from a header, a configuration or a catalog entry.

Tensors without a role are counted by layer; their matrices are taken to be cut evenly where a layer is cut, their
vectors to be held whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.model.families.registry import has_known_mixes
from rowspan.model.roles import required_tensors, shape_of
from rowspan.model.spec import ModelSpec, MoeSpec
from rowspan.plan.fit import AlikeTensors, alike_tensors
from rowspan.plan.rigs.listed_tensors import ListedTensor, tensors_of
from rowspan.plan.rigs.quantize import quantization, quantized


@dataclass(frozen=True)
class Rest:
    """Bytes of those tensors in a layer that have no role: matrices, which are cut, and vectors, which are held
    whole.
    """

    cut: int = 0
    whole: int = 0


@dataclass(frozen=True, eq=False)
class Outline:
    """A model without its weights.

    scheme: name of the quantization.
    listed: all tensors.
    tensors: the tensors that have a role, so that a split knows how to cut them.
    rest: for each layer, bytes of the tensors without a role.
    routed_bytes: bytes of routed experts, of which a token uses the share `ModelSpec.expert_share`.
    active_weights: elements of the layers' matrices that a token is multiplied with.
    notes: sentences about what is only approximate.
    """

    spec: ModelSpec
    scheme: str
    listed: tuple[ListedTensor, ...]
    tensors: Mapping[TensorKey, TensorInfo]
    rest: tuple[Rest, ...]
    file_bytes: int
    routed_bytes: int
    parameters: int
    active_weights: int
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        return self.spec.name if self.scheme in self.spec.name.split() else f"{self.spec.name} {self.scheme}"

    @cached_property
    def kinds(self) -> list[AlikeTensors]:
        """`tensors`, grouped for `shard_bytes`."""
        return alike_tensors(self.tensors, self.spec)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights except an embedding that is only looked up."""
        embedding = self.tensors.get(TensorKey(Role.EMBEDDING))
        return self.file_bytes - (0 if self.spec.tied_embeddings or embedding is None else embedding.nbytes)

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that one token's step reads: experts that the token is not routed to do not count."""
        return self.resident_bytes - round(self.routed_bytes * (1 - self.spec.expert_share))

    @lru_cache(maxsize=64)  # noqa: B019 - short-lived command, and every rig asks for the same few
    def requantized(self, name: str) -> Outline:
        """The same model in another quantization, by llama.cpp's rules.

        Raises:
            UsageError: the quantization is unknown.
        """
        name = quantization(name)
        infos = quantized(self.listed, self.spec, name)
        sure = name in ("F32", "F16", "BF16", "Q8_0") or has_known_mixes(self.spec.architecture)
        note = f"{name} is counted by llama-quantize's rules for llama; {self.spec.architecture} may differ a little."
        return outline(self.spec, self.listed, infos, name, () if sure else (note,))


def outline_of_spec(spec: ModelSpec, scheme: str) -> Outline:
    """The outline of a model as if it were quantized by a scheme.

    Raises:
        UsageError: the quantization is unknown.
    """
    listed = tensors_of(spec)
    return outline(spec, listed, [TensorInfo(each.shape, "F32", 0) for each in listed], "F32").requantized(scheme)


def outline(
    spec: ModelSpec,
    listed: Sequence[ListedTensor],
    infos: Sequence[TensorInfo],
    scheme: str,
    notes: tuple[str, ...] = (),
) -> Outline:
    """Sort a model's tensors into an outline. infos: how each tensor of `listed` is stored."""
    due = set(required_tensors(spec))
    tensors: dict[TensorKey, TensorInfo] = {}
    rest = [Rest() for _ in spec.layers]
    routed = active = 0
    for tensor, info in zip(listed, infos, strict=True):
        if tensor.is_routed:
            routed += info.nbytes
        if tensor.layer is not None and len(tensor.shape) > 1:
            active += round(tensor.elements * _share_met(spec, tensor))
        if tensor.key in due and tensor.shape == shape_of(spec, tensor.key):
            tensors[tensor.key] = info
        else:
            place = -1 if tensor.layer is None else tensor.layer  # tensors outside the layers count with the last layer
            cut, whole = (0, info.nbytes) if len(tensor.shape) == 1 else (info.nbytes, 0)
            rest[place] = Rest(rest[place].cut + cut, rest[place].whole + whole)
    return Outline(
        spec=spec,
        scheme=scheme,
        listed=tuple(listed),
        tensors=tensors,
        rest=tuple(rest),
        file_bytes=sum(info.nbytes for info in infos),
        routed_bytes=routed,
        parameters=sum(tensor.elements for tensor in listed),
        active_weights=active,
        notes=notes,
    )


def _share_met(spec: ModelSpec, tensor: ListedTensor) -> float:
    """The share of a layer's tensor that one token is multiplied with."""
    mlp = spec.layers[tensor.layer or 0].mlp
    return mlp.used / mlp.experts if tensor.is_routed and isinstance(mlp, MoeSpec) else 1.0
