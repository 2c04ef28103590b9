"""Cuts a model over devices: assigns layers to stages, and parts of the layers to each stage's ranks.

Within a stage the cut is Megatron's (Shoeybi et al. 2019): q, k, v, gate and up by outputs; o and down by inputs, so
that one all-reduce after each of these two completes a layer; embedding and head by vocabulary. `rowspan.model.roles`
declares it tensor by tensor.
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
from rowspan.model.roles import CutBy, n_units
from rowspan.model.spec import LayerSpec, ModelSpec, QkNorm
from rowspan.plan.device import Device
from rowspan.plan.shard import NOTHING, LayerCut, Plan, Shard, Span
from rowspan.plan.shares import apportion, check_ratios
from rowspan.plan.split_mode import SplitMode
from rowspan.quant.scheme import GEOMETRIES

FFN_GRAIN = 16  # rows of an MLP slice come in multiples of a vector register (AVX-512: 16 floats) where they can


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
        n_stages: number of stages for `row`, each with equally many of the devices in their order. Cards and CPUs are
            never in the same stage, nor are devices of several hosts.
        gpu_layers: number of first layers on cards, with the others and the head on CPUs; None: by ratios. All layers,
            or more, are what cards without CPUs hold in any case.

    Raises:
        SplitError: the model cannot be cut so; the message says why and what to do.
        RowSplitError: it cannot be cut by row, but by layer.
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
    used = [device for stage in stages for device in stage.devices]
    on_cards = all(device.kind == "cuda" for device in used) and (gpu_layers or 0) >= spec.n_layers
    if gpu_layers is not None and not on_cards:
        layers = _layers_on_cards(spec, tensors, stages, gpu_layers)
        stages = [stage for stage, span in zip(stages, layers, strict=True) if len(span)]
        layers = [span for span in layers if len(span)]
    else:
        layers = _balance_layers(spec, tensors, [stage.share for stage in stages])
    return _cut_stages(spec, tensors, mode, stages, layers)


def split_or_fall_back(
    spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo], devices: Sequence[Device], mode: SplitMode, **options: Any
) -> Plan:
    """Like `split`, but if the model cannot be cut by row, cut it by layer, with a note that says so. Raises
    SplitError.
    """
    try:
        return split(spec, tensors, devices, mode, **options)
    except RowSplitError as error:
        plan = split(spec, tensors, devices, SplitMode.LAYER, **options)
        return replace(plan, note=f"Split by layer, though row was asked for: {error.what} {error.why}")


@dataclass(frozen=True)
class _Stage:
    """The devices of one stage, with the share of the model that each is to have."""

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
    """The layers of each stage: the first ones go to cards, and a stage gets none if none are left."""
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
    blocks = {role: _block(tensors, role) for role in (Role.O, Role.DOWN, Role.EXPERT_DOWN, Role.SHARED_DOWN)}
    for index, (stage, layers) in enumerate(zip(stages, layer_spans, strict=True)):
        held = spec.layers[layers.as_slice()]
        cuts = {layer: _cut_layer(spec, layer, blocks, stage.shares) for layer in set(held)}
        vocab = _spans(apportion(spec.vocab_size, stage.shares))
        for tp_rank, device in enumerate(stage.devices):
            own = tuple(cuts[layer][tp_rank] for layer in held)
            shards.append(Shard(len(shards), device, index, tp_rank, layers, vocab[tp_rank], own))
    return Plan(mode, spec, tuple(shards))


def _cut_layer(
    spec: ModelSpec, layer: LayerSpec, blocks: Mapping[Role, int], shares: Sequence[float]
) -> list[LayerCut]:
    """Cut a layer among the ranks of a stage.

    Matrices cut by inputs (o and the downs) must be cut at the borders of their quantization blocks. Whole heads are
    coarse units (SmolLM2 has 3), so the finer cut of the MLP makes up for their unevenness.
    """
    whole = {cut: n_units(spec, layer, cut) for cut in (CutBy.HEADS, CutBy.MLP, CutBy.EXPERTS, CutBy.SHARED)}
    if len(shares) == 1:
        return [LayerCut(*(Span(0, count) for count in whole.values()))]
    mixer, n_heads = layer.mixer, whole[CutBy.HEADS]
    if mixer.qk_norm is QkNorm.ROW:
        raise RowSplitError(
            f"{spec.name} cannot be split by row.",
            why="It norms queries and keys over all heads of a token together.",
            fix="Use --split-mode layer.",
        )
    head_width = mixer.group * mixer.value_size
    head_unit = math.lcm(head_width, blocks[Role.O]) // head_width
    if n_heads % head_unit:
        raise RowSplitError(
            f"{spec.name} cannot be split by row.",
            why=f"Its attention output is quantized in blocks that only {head_unit} KV heads together align with, "
            f"and it has {n_heads}.",
            fix="Use --split-mode layer.",
        )
    head_units = apportion(n_heads // head_unit, shares)

    attention = spec.hidden_size * mixer.key_size * 2 * (mixer.n_heads + mixer.n_kv_heads)
    mlp = spec.hidden_size * layer.mlp_width * 3
    total_share = sum(shares)
    mlp_due = [
        max(0.0, (attention + mlp) * share / total_share - attention * units * head_unit / n_heads)
        for share, units in zip(shares, head_units, strict=True)
    ]

    def widths(cut: CutBy, down: Role) -> list[Span]:
        if not whole[cut]:
            return [NOTHING for _ in shares]
        unit = math.lcm(blocks[down], math.gcd(whole[cut], FFN_GRAIN))
        return _spans(apportion(whole[cut] // unit, mlp_due), unit)

    return [
        LayerCut(*parts)
        for parts in zip(
            _spans(head_units, head_unit),
            widths(CutBy.MLP, Role.DOWN),
            widths(CutBy.EXPERTS, Role.EXPERT_DOWN),
            widths(CutBy.SHARED, Role.SHARED_DOWN),
            strict=True,
        )
    ]


def _block(tensors: Mapping[TensorKey, TensorInfo], role: Role) -> int:
    """The least common multiple of the block sizes of all layers' tensors of a role, in elements."""
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
    """Assign contiguous layers to stages so that the slowest stage, by weights read per token and share, is as fast as
    possible. Weights are counted by elements, whatever the file packs them in.

    The head counts for the last stage: in a small model it weighs as much as several layers (SmolLM2-135M: eight).

    Args:
        span: layers to assign; None: all. If empty, no stage gets any.
        head: whether the last of these stages has the head.
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
    head_weight = math.prod(held_head.shape) if held_head else 0  # 0 as well if only the first layers are placed
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
