"""The one truth about who holds what.

A plan is a pipeline of stages, and every stage is a tensor-parallel (TP) group: `layer` has one rank per stage, `row`
has one stage of many ranks, `none` has one of each. Loader, KV pool and comm read the plan; nothing else knows how a
model is cut.

Within a stage the cut is Megatron's (Shoeybi et al. 2019): q, k, v, gate and up by outputs; o and down by inputs, so
that one all-reduce after each of these two completes a layer; embedding and head by vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import Any

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import RowSplitError, SplitError
from rowspan.model.spec import ModelSpec
from rowspan.plan.device import Device
from rowspan.plan.shares import apportion, check_ratios
from rowspan.plan.split_mode import SplitMode
from rowspan.quant.scheme import GEOMETRIES

FFN_GRAIN = 16  # rows of an MLP slice come in multiples of a vector register (AVX-512: 16 floats) where they can


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


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of one tensor that a rank holds, in elements. A vector's elements count as rows: those of its matrix."""

    rows: Span
    columns: Span


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank holds of the model."""

    rank: int
    device: Device
    stage: int
    tp_rank: int  # place within the TP group of the stage; rank 0 of the group speaks for the stage
    layers: Span
    kv_heads: Span  # empty: the rank holds no keys or values, and only takes part in the all-reduces
    ffn: Span
    vocab: Span


@dataclass(frozen=True)
class Plan:
    """Who holds what of one model. Ranks are numbered stage by stage."""

    mode: SplitMode
    spec: ModelSpec
    shards: tuple[Shard, ...]
    note: str = ""  # why it is not what was asked for

    @property
    def n_stages(self) -> int:
        return self.shards[-1].stage + 1

    def stage(self, index: int) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.shards if shard.stage == index)

    @property
    def output_rank(self) -> int:
        """The rank that gathers the logits and samples."""
        return self.stage(self.n_stages - 1)[0].rank

    def cut(self, key: TensorKey, shard: Shard) -> Cut | None:
        """The part of a tensor that a rank holds; None when it needs none of it.

        A tied embedding is held by the first stage (to look up) and by the last (as head).
        """
        first, last = shard.stage == 0, shard.stage == self.n_stages - 1
        shape = self.spec.expected_shape(key)
        rows, columns = Span(0, shape[0]), Span(0, shape[-1])
        group, head_dim = self.spec.group, self.spec.head_dim
        match key.role:
            case Role.EMBEDDING:
                held, rows = first or (last and self.spec.tied_embeddings), shard.vocab
            case Role.HEAD:
                held, rows = last, shard.vocab
            case Role.FINAL_NORM:
                held = last
            case Role.ROPE_FREQS:
                held = True
            case role:
                held = key.layer is not None and key.layer in shard.layers
                if role is Role.Q:
                    rows = shard.kv_heads.scaled(group * head_dim)
                elif role in (Role.K, Role.V):
                    rows = shard.kv_heads.scaled(head_dim)
                elif role in (Role.GATE, Role.UP):
                    rows = shard.ffn
                elif role in (Role.O, Role.DOWN) and key.part == "bias":
                    held = held and shard.tp_rank == 0  # added to one of the partial sums
                elif role is Role.O:
                    columns = shard.kv_heads.scaled(group * head_dim)
                elif role is Role.DOWN:
                    columns = shard.ffn
        return Cut(rows, columns) if held else None


def split(
    spec: ModelSpec,
    tensors: Mapping[TensorKey, TensorInfo],
    devices: Sequence[Device],
    mode: SplitMode = SplitMode.LAYER,
    ratios: Sequence[float] | None = None,
    main_device: int = 0,
    *,
    n_stages: int = 1,
    gpu_layers: int | None = None,
) -> Plan:
    """Cut a model over devices.

    Args:
        tensors: the checkpoint's tensors; their shapes balance the stages, their block sizes bind the cuts.
        ratios: one positive share per device; equal when None.
        main_device: index of the device that `none` uses.
        n_stages: of `row`: so many stages, each of equally many of the devices in their order. Cards and CPUs are never
            in the same stage, nor are devices of several hosts.
        gpu_layers: so many of the first layers on cards, the others and the head on CPUs; None: by ratios.

    Raises:
        SplitError: the model cannot be cut so; says why and what to do.
        RowSplitError: it can be by layer.
    """
    shares = _check_ratios(ratios, devices)
    if mode is SplitMode.NONE:
        if not 0 <= main_device < len(devices):
            raise SplitError(
                f"There is no device {main_device} to use alone.",
                why=f"{len(devices)} devices are given, counted from 0.",
                fix="Choose --main-gpu among them.",
            )
        stages = [_Stage([devices[main_device]], [1.0])]
    elif mode is SplitMode.LAYER:
        stages = [_Stage([device], [share]) for device, share in zip(devices, shares, strict=True)]
    else:
        stages = _row_stages(devices, shares, n_stages)
    if mode is not SplitMode.NONE and gpu_layers is not None:
        layers = _layers_on_cards(spec, tensors, stages, gpu_layers)
        stages = [stage for stage, span in zip(stages, layers, strict=True) if len(span)]
        layers = [span for span in layers if len(span)]
    else:
        layers = _balance_layers(spec, tensors, [stage.share for stage in stages])
    return _cut_stages(spec, tensors, mode, stages, layers)


def split_or_fall_back(
    spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo], devices: Sequence[Device], mode: SplitMode, **options: Any
) -> Plan:
    """As `split`; by layer where it cannot be by row, with a note that says so. Raises SplitError."""
    try:
        return split(spec, tensors, devices, mode, **options)
    except RowSplitError as error:
        plan = split(spec, tensors, devices, SplitMode.LAYER, **options)
        return replace(plan, note=f"Split by layer, though row was asked for: {error.what} {error.why}")


@dataclass(frozen=True)
class _Stage:
    """Devices that share layers, and what share of the model each is to have."""

    devices: Sequence[Device]
    shares: Sequence[float]

    @property
    def share(self) -> float:
        return sum(self.shares)


def _row_stages(devices: Sequence[Device], shares: Sequence[float], n_stages: int) -> list[_Stage]:
    if n_stages < 1 or len(devices) % n_stages:
        raise SplitError(
            f"{len(devices)} devices cannot form {n_stages} stages.",
            why="Every stage has the same number of devices.",
            fix="Name a multiple of --stages devices.",
        )
    each = len(devices) // n_stages
    stages: list[_Stage] = []
    for first in range(0, len(devices), each):
        of_stage = list(zip(devices[first : first + each], shares[first : first + each], strict=True))
        for _, alike in groupby(of_stage, key=lambda one: (one[0].host, one[0].kind)):
            kind_devices, kind_shares = zip(*alike, strict=True)
            stages.append(_Stage(kind_devices, kind_shares))
    return stages


def _layers_on_cards(
    spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo], stages: Sequence[_Stage], gpu_layers: int
) -> list[Span]:
    """Layers of each stage: the first ones on the cards, none where there are none left."""
    on_cards = [stage.devices[0].kind == "cuda" for stage in stages]
    n_cards = sum(on_cards)
    if not n_cards or n_cards == len(stages) or not all(on_cards[:n_cards]):
        raise SplitError(
            "--n-gpu-layers needs cards, and CPUs after them.",
            why=f"--devices are {', '.join(str(device) for stage in stages for device in stage.devices)}.",
            fix="Name both, such as --devices cuda:0,cpu:0.",
        )
    first = min(gpu_layers, spec.n_layers)
    shares = [stage.share for stage in stages]
    head = first == spec.n_layers
    cards = _balance_layers(spec, tensors, shares[:n_cards], Span(0, first), head=head)
    cpus = _balance_layers(spec, tensors, shares[n_cards:], Span(first, spec.n_layers), head=not head)
    return cards + cpus


def _cut_stages(
    spec: ModelSpec,
    tensors: Mapping[TensorKey, TensorInfo],
    mode: SplitMode,
    stages: Sequence[_Stage],
    layer_spans: Sequence[Span],
) -> Plan:
    shards: list[Shard] = []
    for index, (stage, layers) in enumerate(zip(stages, layer_spans, strict=True)):
        heads, ffn = _cut_rows(spec, tensors, stage.shares)
        vocab = _spans(apportion(spec.vocab_size, stage.shares))
        for tp_rank, device in enumerate(stage.devices):
            shards.append(
                Shard(len(shards), device, index, tp_rank, layers, heads[tp_rank], ffn[tp_rank], vocab[tp_rank])
            )
    return Plan(mode, spec, tuple(shards))


def _cut_rows(
    spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo], shares: Sequence[float]
) -> tuple[list[Span], list[Span]]:
    """KV heads and MLP rows of each rank of a stage.

    o and down are cut by inputs, so these cuts must fall on the borders of their quantization blocks. Whole heads are
    coarse (SmolLM2 has 3), so the MLP's finer cut evens out what the heads' could not.
    """
    if len(shares) == 1:
        return [Span(0, spec.n_kv_heads)], [Span(0, spec.ffn_size)]
    head_width = spec.group * spec.head_dim
    head_unit = math.lcm(head_width, _block(tensors, Role.O)) // head_width
    if spec.n_kv_heads % head_unit:
        raise RowSplitError(
            f"{spec.name} cannot be split by row.",
            why=f"Its attention output is quantized in blocks that only {head_unit} KV heads together align with, "
            f"and it has {spec.n_kv_heads}.",
            fix="Use --split-mode layer.",
        )
    head_units = apportion(spec.n_kv_heads // head_unit, shares)

    attention = spec.hidden_size * spec.head_dim * 2 * (spec.n_heads + spec.n_kv_heads)
    mlp = spec.hidden_size * spec.ffn_size * 3
    total_share = sum(shares)
    mlp_due = [
        max(0.0, (attention + mlp) * share / total_share - attention * units * head_unit / spec.n_kv_heads)
        for share, units in zip(shares, head_units, strict=True)
    ]
    ffn_unit = math.lcm(_block(tensors, Role.DOWN), math.gcd(spec.ffn_size, FFN_GRAIN))
    ffn_units = apportion(spec.ffn_size // ffn_unit, mlp_due)
    return _spans(head_units, head_unit), _spans(ffn_units, ffn_unit)


def _block(tensors: Mapping[TensorKey, TensorInfo], role: Role) -> int:
    """Least common block of all layers' tensors of a role, in elements."""
    schemes = {info.scheme for key, info in tensors.items() if key.role is role}
    return math.lcm(*(GEOMETRIES[scheme].block_size for scheme in schemes))


def _balance_layers(
    spec: ModelSpec,
    tensors: Mapping[TensorKey, TensorInfo],
    shares: Sequence[float],
    span: Span | None = None,
    *,
    head: bool = True,
) -> list[Span]:
    """Contiguous layers per stage such that the slowest stage, by weights read per token and share, is as fast as can
    be. Weights are counted by elements, whatever the file packs them in.

    The head counts for the last stage: in a small model it weighs as much as several layers (SmolLM2-135M: eight).

    Args:
        span: layers to deal out; all when None; when empty, no stage gets any.
        head: whether the last of these stages has it.
    """
    span = Span(0, spec.n_layers) if span is None else span
    if not len(span):
        return [span for _ in shares]
    if len(shares) > len(span):
        raise SplitError(
            f"{len(span)} layers cannot be split over {len(shares)} devices.",
            why="Every device needs a layer.",
            fix=f"Name at most {len(span)} devices, or use --split-mode row.",
        )
    layer_weights = [0] * spec.n_layers
    for key, info in tensors.items():
        if key.layer is not None:
            layer_weights[key.layer] += math.prod(info.shape)
    held_head = tensors.get(TensorKey(Role.EMBEDDING if spec.tied_embeddings else Role.HEAD)) if head else None
    head_weight = math.prod(held_head.shape) if held_head else 0  # or none, where only first layers are to be placed
    upto = [0, *accumulate(layer_weights)]

    # best[k]: (time of the slowest of the stages so far, their borders) with layers up to k - 1 placed
    best: dict[int, tuple[float, list[int]]] = {span.start: (0.0, [span.start])}
    for stage, share in enumerate(shares):
        is_last = stage == len(shares) - 1
        extra = head_weight if is_last else 0
        stages_left = len(shares) - stage - 1
        stops = [span.stop] if is_last else range(span.start + stage + 1, span.stop - stages_left + 1)
        best = {
            stop: min(
                (max(slowest, (upto[stop] - upto[start] + extra) / share), [*borders, stop])
                for start, (slowest, borders) in best.items()
                if start < stop
            )
            for stop in stops
        }
    borders = best[span.stop][1]
    return [Span(start, stop) for start, stop in pairwise(borders)]


def _spans(counts: Iterable[int], unit: int = 1) -> list[Span]:
    borders = [0, *accumulate(count * unit for count in counts)]
    return [Span(start, stop) for start, stop in pairwise(borders)]


def _check_ratios(ratios: Sequence[float] | None, devices: Sequence[Device]) -> list[float]:
    if not devices:
        raise SplitError("There is no device to run on.", fix="Name one, such as --devices cpu:0.")
    if ratios is None:
        return [1.0] * len(devices)
    check_ratios(ratios, len(devices))
    return list(ratios)
