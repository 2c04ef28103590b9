"""The types of a plan: a pipeline of stages, each with tensor-parallel ranks that share its layers.

`layer` has one rank per stage, `row` has one stage of many ranks (tensor parallelism), `none` has one of each. Loader,
KV cache and comm read the plan; nothing else knows how a model is cut. `rowspan.plan.split` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass

from rowspan.checkpoint.tensor_names import TensorKey
from rowspan.model.roles import ROLES, Axis, CutBy, Place, axes_of, layer_of, n_units
from rowspan.model.spec import LayerSpec, ModelSpec
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode


@dataclass(frozen=True, slots=True)
class Span:
    """The half-open range start … stop - 1."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, index: int) -> bool:
        return self.start <= index < self.stop

    def scaled(self, factor: int) -> Span:
        return Span(self.start * factor, self.stop * factor)

    def as_slice(self) -> slice:
        return slice(self.start, self.stop)


NOTHING = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of one tensor that a rank holds, in elements. A vector has as many rows as its matrix.

    experts: the experts held, of a tensor that stacks one matrix per expert; None for other tensors.
    """

    rows: Span
    columns: Span
    experts: Span | None = None


@dataclass(frozen=True, slots=True)
class LayerCut:
    """A rank's part of a layer, in the units that `CutBy` names. A rank without heads holds no keys or values either,
    and only takes part in the all-reduces.
    """

    heads: Span
    mlp: Span
    experts: Span = NOTHING
    shared: Span = NOTHING

    def of(self, cut: CutBy) -> Span:
        match cut:
            case CutBy.HEADS:
                return self.heads
            case CutBy.MLP:
                return self.mlp
            case CutBy.EXPERTS:
                return self.experts
            case CutBy.SHARED:
                return self.shared
        raise ValueError(f"layers are not cut by {cut}")

    @property
    def has_mlp(self) -> bool:
        """Whether the rank computes a part of the layer's MLP, of whatever kind."""
        return len(self.mlp) + len(self.experts) + len(self.shared) > 0


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of the model.

    tp_rank: index among the ranks of its stage; rank 0 communicates for the stage.
    cuts: its part of each of its layers.
    """

    rank: int
    device: Device
    stage: int
    tp_rank: int
    layers: Span
    vocab: Span
    cuts: tuple[LayerCut, ...]

    def cut_of(self, layer: int) -> LayerCut:
        return self.cuts[layer - self.layers.start]


@dataclass(frozen=True)
class Plan:
    """Which rank holds what of one model. Ranks are numbered stage by stage."""

    mode: SplitMode
    spec: ModelSpec
    shards: tuple[Shard, ...]
    note: str = ""  # why the plan differs from what was asked for

    @property
    def n_stages(self) -> int:
        return self.shards[-1].stage + 1

    def stage(self, index: int) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.stage == index)

    @property
    def output_rank(self) -> int:
        """The rank that gathers the logits and samples."""
        return self.stage(self.n_stages - 1)[0].rank

    def is_last(self, shard: Shard) -> bool:
        """Whether a rank belongs to the last stage, which has the head."""
        return shard.stage == self.n_stages - 1

    def cut(self, key: TensorKey, shard: Shard) -> Cut | None:
        """The part of a tensor that a rank holds; None if it needs none of it."""
        if not self._is_held(key, shard):
            return None
        if key.part == "bias" and ROLES[key.role].axes[-1].cut is not CutBy.WHOLE and shard.tp_rank:
            return None  # only one rank adds the bias to its partial sum
        layer = layer_of(self.spec, key)
        spans = [self._span(axis, layer, key.layer, shard) for axis in axes_of(key)]
        if len(spans) == 1:
            return Cut(spans[0], Span(0, axes_of(key)[0].length(self.spec, layer)))
        *outer, rows, columns = spans
        return Cut(rows, columns, *outer)

    def _is_held(self, key: TensorKey, shard: Shard) -> bool:
        match ROLES[key.role].place:
            case Place.FIRST:
                return shard.stage == 0 or (self.is_last(shard) and self.spec.tied_embeddings)
            case Place.LAST:
                return self.is_last(shard)
            case Place.EVERY:
                return True
            case Place.LAYER:
                return key.layer is not None and key.layer in shard.layers

    def _span(self, axis: Axis, layer: LayerSpec, index: int | None, shard: Shard) -> Span:
        length = axis.length(self.spec, layer)
        if axis.cut is CutBy.WHOLE:
            return Span(0, length)
        if axis.cut is CutBy.VOCABULARY:
            return shard.vocab
        assert index is not None, "what is cut by anything else is in a layer"
        units = n_units(self.spec, layer, axis.cut)
        return shard.cut_of(index).of(axis.cut).scaled(length // units) if units else NOTHING
