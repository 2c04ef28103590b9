"""The one truth about who holds what.

A plan is a pipeline of stages, and every stage is a row group: `layer` has one rank per stage, `row` has one stage of
many ranks, `none` has one of each. Loader, KV pool and comm read the plan; nothing else knows how a model is cut.

Within a stage the cut is Megatron's (Shoeybi et al. 2019): q, k, v, gate and up by outputs; o and down by inputs, so
that one all-reduce after each of these two completes a layer; embedding and head by vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import accumulate, pairwise

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.names import Role, TensorKey
from rowspan.errors import SplitError
from rowspan.model.spec import ModelSpec
from rowspan.plan.device import Device
from rowspan.quant.scheme import GEOMETRIES

FFN_GRAIN = 16  # rows of an MLP slice come in multiples of a vector register (AVX-512: 16 floats) where they can
LARGEST_SPREAD = 1e6  # between the shares of two devices


class SplitMode(StrEnum):
    NONE = "none"
    LAYER = "layer"
    ROW = "row"


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
    row: int  # place within the stage's row group; row 0 speaks for the stage
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
                    held = held and shard.row == 0  # added to one of the partial sums
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
) -> Plan:
    """Cut a model over devices.

    Args:
        tensors: the checkpoint's tensors; their shapes balance the stages, their block sizes bind the cuts.
        ratios: one positive share per device; equal when None.
        main_device: index of the device that `none` uses.

    Raises:
        SplitError: the model cannot be cut so; says why and what to do.
    """
    shares = _check_ratios(ratios, devices)
    if mode is SplitMode.NONE:
        if not 0 <= main_device < len(devices):
            raise SplitError(
                f"There is no device {main_device} to use alone.",
                why=f"{len(devices)} devices are given, counted from 0.",
                fix="Choose --main-gpu among them.",
            )
        stages = [([devices[main_device]], [1.0])]
    elif mode is SplitMode.LAYER:
        stages = [([device], [share]) for device, share in zip(devices, shares, strict=True)]
    else:
        stages = [(list(devices), shares)]
    return _cut_stages(spec, tensors, mode, stages)


def _cut_stages(
    spec: ModelSpec,
    tensors: Mapping[TensorKey, TensorInfo],
    mode: SplitMode,
    stages: Sequence[tuple[Sequence[Device], Sequence[float]]],
) -> Plan:
    layer_spans = _balance_layers(spec, tensors, [sum(shares) for _, shares in stages])
    shards: list[Shard] = []
    for stage, ((devices, shares), layers) in enumerate(zip(stages, layer_spans, strict=True)):
        heads, ffn = _cut_rows(spec, tensors, shares)
        vocab = _spans(apportion(spec.vocab_size, shares))
        for row, device in enumerate(devices):
            shards.append(Shard(len(shards), device, stage, row, layers, heads[row], ffn[row], vocab[row]))
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
        raise SplitError(
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


def _balance_layers(spec: ModelSpec, tensors: Mapping[TensorKey, TensorInfo], shares: Sequence[float]) -> list[Span]:
    """Contiguous layers per stage such that the slowest stage, by weights read per token and share, is as fast as can
    be. Weights are counted by elements, whatever the file packs them in.

    The head counts for the last stage: in a small model it weighs as much as several layers (SmolLM2-135M: eight).
    """
    if len(shares) > spec.n_layers:
        raise SplitError(
            f"{spec.n_layers} layers cannot be split over {len(shares)} devices.",
            why="Every device needs a layer.",
            fix=f"Name at most {spec.n_layers} devices, or use --split-mode row.",
        )
    layer_weights = [0] * spec.n_layers
    for key, info in tensors.items():
        if key.layer is not None:
            layer_weights[key.layer] += math.prod(info.shape)
    held_head = tensors.get(TensorKey(Role.EMBEDDING if spec.tied_embeddings else Role.HEAD))
    head = math.prod(held_head.shape) if held_head else 0  # none, where only the first layers are to be placed
    upto = [0, *accumulate(layer_weights)]

    # best[k]: (time of the slowest of the stages so far, their borders) with layers 0 … k - 1 placed
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for stage, share in enumerate(shares):
        is_last = stage == len(shares) - 1
        extra = head if is_last else 0
        stops = [spec.n_layers] if is_last else range(stage + 1, spec.n_layers - (len(shares) - stage - 1) + 1)
        best = {
            stop: min(
                (max(slowest, (upto[stop] - upto[start] + extra) / share), [*borders, stop])
                for start, (slowest, borders) in best.items()
                if start < stop
            )
            for stop in stops
        }
    borders = best[spec.n_layers][1]
    return [Span(start, stop) for start, stop in pairwise(borders)]


def apportion(units: int, shares: Sequence[float]) -> list[int]:
    """Divide whole units by shares: largest remainder, ties to the lower index. In exact arithmetic, so that a tie is
    a tie."""
    total = sum(map(Fraction, shares))
    quotas = [units * Fraction(share) / total for share in shares]
    counts = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - quotas[i])
    for index in by_remainder[: units - sum(counts)]:
        counts[index] += 1
    return counts


def _spans(counts: Iterable[int], unit: int = 1) -> list[Span]:
    borders = [0, *accumulate(count * unit for count in counts)]
    return [Span(start, stop) for start, stop in pairwise(borders)]


def _check_ratios(ratios: Sequence[float] | None, devices: Sequence[Device]) -> list[float]:
    if not devices:
        raise SplitError("There is no device to run on.", fix="Name one, such as --devices cpu:0.")
    if len({device.kind for device in devices}) > 1:
        raise SplitError(
            f"{', '.join(map(str, devices))} are of different kinds.",
            why="Cards and CPUs have no transport between them yet.",
            fix="Name cards only, or CPUs only.",
        )
    if ratios is None:
        return [1.0] * len(devices)
    check_ratios(ratios, len(devices))
    return list(ratios)


def check_ratios(ratios: Sequence[float], n_devices: int) -> None:
    """Raises SplitError: they are no shares for so many devices."""
    if len(ratios) != n_devices:
        raise SplitError(
            f"--tensor-split has {len(ratios)} shares for {n_devices} devices.",
            fix="Give one share per device, such as --devices cpu:0,cpu:1 --tensor-split 3,1.",
        )
    if any(not math.isfinite(ratio) or ratio <= 0 for ratio in ratios):
        raise SplitError(
            "--tensor-split must hold positive numbers.",
            fix="To leave a device out, do not name it in --devices.",
        )
    if max(ratios) > LARGEST_SPREAD * min(ratios):
        raise SplitError(
            "The shares of --tensor-split are too far apart.",
            why=f"The smallest of {', '.join(map(str, ratios))} would hold nothing.",
            fix="To leave a device out, do not name it in --devices.",
        )
