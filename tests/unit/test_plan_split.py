"""Every element of every tensor is held exactly once wherever it is needed, however a model is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.dense_spec import dense_spec

from rowspan.checkpoint.checkpoint import TensorInfo
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import RowSplitError, SplitError, UsageError
from rowspan.model.roles import required_tensors, shape_of
from rowspan.model.spec import ModelSpec, QkNorm
from rowspan.plan.device import Device, parse_devices, parse_ratios
from rowspan.plan.shard import Plan, Shard, Span
from rowspan.plan.shares import apportion
from rowspan.plan.split import split, split_or_fall_back
from rowspan.plan.split_mode import SplitMode
from rowspan.quant.scheme import SCHEMES

BY_OUTPUTS = {Role.EMBEDDING, Role.HEAD, Role.Q, Role.K, Role.V, Role.GATE, Role.UP}
BY_INPUTS = {Role.O, Role.DOWN}
OUTSIDE = {Role.EMBEDDING, Role.HEAD}  # of the layers
SPEC = dense_spec()


@dataclass(frozen=True)
class Model:
    spec: ModelSpec
    tensors: Mapping[TensorKey, TensorInfo]


def model_of(spec: ModelSpec, schemes: Mapping[Role, str] | None = None) -> Model:
    """A model of this shape, the tensors of some roles quantized."""
    tensors = {}
    for key in [*required_tensors(spec), TensorKey(Role.ROPE_FREQS)]:
        scheme = SCHEMES[(schemes or {}).get(key.role, "F32") if key.part == "weight" else "F32"]
        shape = shape_of(spec, key)
        tensors[key] = TensorInfo(shape, scheme.name, math.prod(shape) // scheme.block_size * scheme.block_bytes)
    return Model(spec, tensors)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Any shape whose o and down are whole blocks of 1, 32 or 256 elements."""
    schemes = {role: draw(st.sampled_from(["F32", "Q4_0", "Q4_K"])) for role in (Role.O, Role.DOWN)}
    head_dim = draw(st.sampled_from([8, 16, 48, 64, 80, 128]))
    group = draw(st.integers(1, 6))
    block = SCHEMES[schemes[Role.O]].block_size
    kv_unit = block // math.gcd(block, group * head_dim)
    n_kv_heads = kv_unit * draw(st.integers(1, max(1, 12 // kv_unit)))
    ffn_unit = SCHEMES[schemes[Role.DOWN]].block_size
    biases = draw(st.booleans())
    spec = dense_spec(
        n_layers=draw(st.integers(1, 12)),
        n_heads=n_kv_heads * group,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        ffn_size=ffn_unit * draw(st.integers(1, 40)),
        vocab_size=draw(st.integers(1, 500)),
        tied_embeddings=draw(st.booleans()),
        biases=biases,
        qk_norm=QkNorm.HEAD if biases else QkNorm.NONE,
    )
    return model_of(spec, schemes)


def cpus(n: int) -> list[Device]:
    return [Device("cpu", index) for index in range(n)]


def ratios(n: int) -> st.SearchStrategy[list[float] | None]:
    return st.none() | st.lists(st.floats(1e-3, 1e3), min_size=n, max_size=n)


def assert_tiles(spans: Sequence[Span], length: int) -> None:
    """The spans, in order, follow each other from 0 to length; empty ones may stand anywhere."""
    at = 0
    for span in spans:
        assert len(span) >= 0
        if len(span):
            assert span.start == at
            at = span.stop
    assert at == length


def assert_complete(plan: Plan, model: Model) -> None:
    """Each tensor is where it is needed, whole, once, and cut only between blocks."""
    assert [shard.rank for shard in plan.shards] == list(range(len(plan.shards)))
    assert_tiles([plan.stage(index)[0].layers for index in range(plan.n_stages)], plan.spec.n_layers)
    for index in range(plan.n_stages):
        group = plan.stage(index)
        assert len(group[0].layers) > 0
        assert {shard.layers for shard in group} == {group[0].layers}
        assert [shard.tp_rank for shard in group] == list(range(len(group)))
        for key, info in model.tensors.items():
            assert_whole_in_stage(plan, group, key, info)


def assert_whole_in_stage(plan: Plan, group: Sequence[Shard], key: TensorKey, info: TensorInfo) -> None:
    first, last = group[0].stage == 0, group[0].stage == plan.n_stages - 1
    needed = {
        Role.EMBEDDING: first or (last and plan.spec.tied_embeddings),
        Role.HEAD: last,
        Role.FINAL_NORM: last,
        Role.ROPE_FREQS: True,
    }.get(key.role, key.layer is not None and key.layer in group[0].layers)
    cuts = [plan.cut(key, shard) for shard in group]
    held = [cut for cut in cuts if cut is not None]
    if not needed:
        assert not held
    elif key.part == "bias" and key.role in BY_INPUTS:  # added to one partial sum
        assert [cut is not None for cut in cuts] == [shard.tp_rank == 0 for shard in group]
        assert held[0].rows == Span(0, info.shape[0])
    else:
        assert len(held) == len(group)
        rows, columns = [cut.rows for cut in held], [cut.columns for cut in held]
        if key.role in BY_INPUTS:
            block = SCHEMES[info.scheme].block_size
            assert set(rows) == {Span(0, info.shape[0])}
            assert_tiles(columns, info.shape[1])
            assert all(border % block == 0 for span in columns for border in (span.start, span.stop))
        elif key.role in BY_OUTPUTS:
            assert_tiles(rows, info.shape[0])
            assert set(columns) == {Span(0, info.shape[-1])}
        else:
            assert set(rows) == {Span(0, info.shape[0])}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), model=models(), n=st.integers(1, 9))
def test_row_covers_the_model(data: st.DataObject, model: Model, n: int) -> None:
    plan = split(model.spec, model.tensors, cpus(n), SplitMode.ROW, data.draw(ratios(n)))
    assert (plan.n_stages, len(plan.shards), plan.output_rank) == (1, n, 0)
    assert_complete(plan, model)
    for shard in plan.shards:  # a rank's queries attend to the keys it holds
        q, k, o = (plan.cut(TensorKey(role, 0), shard) for role in (Role.Q, Role.K, Role.O))
        assert q is not None
        assert k is not None
        assert o is not None
        assert q.rows == o.columns
        assert (q.rows.start, q.rows.stop) == (
            k.rows.start * model.spec.layers[0].mixer.group,
            k.rows.stop * model.spec.layers[0].mixer.group,
        )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), model=models())
def test_layer_covers_the_model(data: st.DataObject, model: Model) -> None:
    n = data.draw(st.integers(1, min(9, model.spec.n_layers)))
    plan = split(model.spec, model.tensors, cpus(n), SplitMode.LAYER, data.draw(ratios(n)))
    assert (plan.n_stages, len(plan.shards), plan.output_rank) == (n, n, n - 1)
    assert_complete(plan, model)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), model=models(), n=st.integers(1, 9))
def test_none_holds_everything_on_the_main_device(data: st.DataObject, model: Model, n: int) -> None:
    main = data.draw(st.integers(0, n - 1))
    plan = split(model.spec, model.tensors, cpus(n), SplitMode.NONE, data.draw(ratios(n)), main)
    assert [shard.device for shard in plan.shards] == [Device("cpu", main)]
    assert_complete(plan, model)


@settings(max_examples=60, deadline=None)
@given(
    layer_sizes=st.lists(st.integers(1, 100), min_size=2, max_size=7),
    head=st.integers(1, 300),
    shares=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_no_other_layer_cut_has_a_faster_slowest_stage(layer_sizes: list[int], head: int, shares: list[int]) -> None:
    n_layers, shares = len(layer_sizes), shares[: len(layer_sizes)]
    tensors: dict[TensorKey, TensorInfo] = {
        key: TensorInfo((layer_sizes[key.layer] if key.role is Role.Q else 0,), "F32", 0)
        for key in required_tensors(dense_spec(n_layers=n_layers))
        if key.layer is not None
    }
    tensors[TensorKey(Role.EMBEDDING)] = TensorInfo((head,), "F32", 0)

    def slowest(borders: Sequence[int]) -> float:
        loads = [sum(layer_sizes[a:b]) for a, b in pairwise(borders)]
        loads[-1] += head
        return max(load / share for load, share in zip(loads, shares, strict=True))

    plan = split(dense_spec(n_layers=n_layers), tensors, cpus(len(shares)), SplitMode.LAYER, shares)
    chosen = [0, *(shard.layers.stop for shard in plan.shards)]
    cuts = combinations(range(1, n_layers), len(shares) - 1)
    assert slowest(chosen) == pytest.approx(min(slowest([0, *cut, n_layers]) for cut in cuts))


@given(units=st.integers(0, 10_000), shares=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_apportion_is_largest_remainder(units: int, shares: list[float]) -> None:
    counts = apportion(units, shares)
    quotas = [units * share / math.fsum(shares) for share in shares]
    above = [count - quota for count, quota in zip(counts, quotas, strict=True)]
    assert sum(counts) == units
    assert all(abs(difference) < 1 + 1e-6 for difference in above)
    rounded_up = [1 - difference for difference in above if difference > 1e-6]  # their remainders
    rounded_down = [-difference for difference in above if difference < -1e-6]
    assert max(rounded_down, default=0.0) <= min(rounded_up, default=1.0) + 1e-6


@pytest.mark.parametrize(
    ("units", "shares", "counts"),
    [
        (3, [1, 1], [2, 1]),
        (3, [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]),
        (8, [3, 1], [6, 2]),
        (10, [5, 3, 1], [6, 3, 1]),
        (1, [1, 9], [0, 1]),
        (0, [1, 2], [0, 0]),
    ],
)
def test_apportion_by_hand(units: int, shares: list[float], counts: list[int]) -> None:
    assert apportion(units, shares) == counts


def test_more_ranks_than_kv_heads_leave_ranks_without() -> None:
    model = model_of(SPEC)
    plan = split(model.spec, model.tensors, cpus(5), SplitMode.ROW)
    assert [len(shard.cuts[0].heads) for shard in plan.shards] == [1, 1, 1, 0, 0]
    ffn = [len(shard.cuts[0].mlp) for shard in plan.shards]
    assert min(ffn[3:]) > max(ffn[:3])  # what they lack in heads they get in MLP rows
    assert_complete(plan, model)


def test_mlp_rows_even_out_uneven_heads() -> None:
    model = model_of(dense_spec(ffn_size=9600))
    plan = split(model.spec, model.tensors, cpus(2), SplitMode.ROW)

    def weight(shard: Shard) -> int:
        cuts = [plan.cut(TensorKey(role, 0), shard) for role in (*BY_OUTPUTS, *BY_INPUTS) if role not in OUTSIDE]
        return sum(len(cut.rows) * len(cut.columns) for cut in cuts if cut is not None)

    assert [len(shard.cuts[0].heads) for shard in plan.shards] == [2, 1]
    assert weight(plan.shards[0]) == pytest.approx(weight(plan.shards[1]), rel=0.01)


def test_ratios_are_followed() -> None:
    model = model_of(dense_spec(n_kv_heads=8, n_heads=8, ffn_size=1600, vocab_size=1000, n_layers=12))
    row = split(model.spec, model.tensors, cpus(2), SplitMode.ROW, [3, 1])
    assert [(len(s.cuts[0].heads), len(s.cuts[0].mlp), len(s.vocab)) for s in row.shards] == [
        (6, 1200, 750),
        (2, 400, 250),
    ]
    layer = split(model.spec, model.tensors, cpus(2), SplitMode.LAYER, [3, 1])
    assert [len(shard.layers) for shard in layer.shards] == [9, 3]


@pytest.mark.parametrize(
    ("devices", "mode", "shares", "main", "says"),
    [
        (7, SplitMode.LAYER, None, 0, "6 layers cannot be split over 7 devices"),
        (2, SplitMode.ROW, [1.0], 0, "1 shares for 2 devices"),
        (2, SplitMode.LAYER, [1.0, 1.0, 1.0], 0, "3 shares for 2 devices"),
        (2, SplitMode.ROW, [1.0, 0.0], 0, "positive"),
        (2, SplitMode.ROW, [1.0, -1.0], 0, "positive"),
        (2, SplitMode.ROW, [1e308, 1.0], 0, "too far apart"),
        (2, SplitMode.ROW, [1.0, math.nan], 0, "positive"),
        (2, SplitMode.ROW, [1.0, math.inf], 0, "positive"),
        (0, SplitMode.ROW, None, 0, "no device"),
        (0, SplitMode.NONE, None, 0, "no device"),
        (2, SplitMode.NONE, None, 2, "no device 2"),
        (2, SplitMode.NONE, None, -1, "no device -1"),
    ],
)
def test_refusals_say_why(devices: int, mode: SplitMode, shares: list[float] | None, main: int, says: str) -> None:
    model = model_of(SPEC)
    with pytest.raises(SplitError, match=says) as refusal:
        split(model.spec, model.tensors, cpus(devices), mode, shares, main)
    assert refusal.value.fix


def places(plan: Plan) -> list[tuple[str, int, int, range]]:
    """Device, stage, row and layers of every rank."""
    return [(str(s.device), s.stage, s.tp_rank, range(s.layers.start, s.layers.stop)) for s in plan.shards]


def test_the_first_layers_go_to_cards_and_the_rest_to_cpus() -> None:
    model = model_of(dense_spec(n_layers=6))
    devices = parse_devices("cuda:0,cuda:1,cpu:0")
    layer = split(model.spec, model.tensors, devices, SplitMode.LAYER, gpu_layers=4)
    assert places(layer) == [("cuda:0", 0, 0, range(2)), ("cuda:1", 1, 0, range(2, 4)), ("cpu:0", 2, 0, range(4, 6))]
    row = split(model.spec, model.tensors, devices, SplitMode.ROW, gpu_layers=4)
    assert places(row) == [("cuda:0", 0, 0, range(4)), ("cuda:1", 0, 1, range(4)), ("cpu:0", 1, 0, range(4, 6))]
    all_on_cards = split(model.spec, model.tensors, devices, SplitMode.ROW, gpu_layers=99)
    assert places(all_on_cards) == [("cuda:0", 0, 0, range(6)), ("cuda:1", 0, 1, range(6))]


@pytest.mark.parametrize("names", ["cpu:0,cpu:1", "cuda:0,cuda:1", "cpu:0,cuda:0"])
def test_layers_on_cards_need_cards_and_cpus_after_them(names: str) -> None:
    model = model_of(SPEC)
    with pytest.raises(SplitError, match="needs cards, and CPUs after them"):
        split(model.spec, model.tensors, parse_devices(names), gpu_layers=1)


@pytest.mark.parametrize("mode", list(SplitMode))
def test_all_layers_on_cards_is_what_cards_alone_hold(mode: SplitMode) -> None:
    """-ngl 99, as everybody types it; fewer need a CPU for the others, with one device, too."""
    model = model_of(SPEC)
    cards = parse_devices("cuda:0,cuda:1")
    plain = split(model.spec, model.tensors, cards, mode)
    assert places(split(model.spec, model.tensors, cards, mode, gpu_layers=99)) == places(plain)
    with pytest.raises(SplitError, match="CPUs after them"):
        split(model.spec, model.tensors, cards, mode, gpu_layers=1)


def test_stages_of_rows() -> None:
    model = model_of(dense_spec(n_layers=4))
    plan = split(model.spec, model.tensors, cpus(4), SplitMode.ROW, [1, 1, 3, 3], n_stages=2)
    assert [(shard.stage, shard.tp_rank) for shard in plan.shards] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [len(shard.layers) for shard in plan.shards] in ([1, 1, 3, 3], [2, 2, 2, 2])
    for stage in range(2):
        assert sum(len(shard.cuts[0].heads) for shard in plan.stage(stage)) == 3
        assert sum(len(shard.cuts[0].mlp) for shard in plan.stage(stage)) == 96
    with pytest.raises(SplitError, match="cannot form 3 stages"):
        split(model.spec, model.tensors, cpus(4), SplitMode.ROW, n_stages=3)


def test_what_cannot_be_split_by_row_is_by_layer_and_says_so() -> None:
    tensors = dict(model_of(SPEC).tensors)  # 96 inputs of o: not whole blocks of 256
    for layer in range(SPEC.n_layers):
        tensors[TensorKey(Role.O, layer)] = TensorInfo((64, 96), "Q4_K", 0)
    with pytest.raises(RowSplitError, match="cannot be split by row"):
        split(SPEC, tensors, cpus(2), SplitMode.ROW)
    plan = split_or_fall_back(SPEC, tensors, cpus(2), SplitMode.ROW)
    assert (plan.mode, plan.n_stages) == (SplitMode.LAYER, 2)
    assert "cannot be split by row" in plan.note
    assert split_or_fall_back(SPEC, tensors, cpus(2), SplitMode.LAYER).note == ""


def test_devices_are_read() -> None:
    assert parse_devices("cpu") == (Device("cpu", 0),)
    assert parse_devices(" cpu:1 , cuda:0") == (Device("cpu", 1), Device("cuda", 0))


@pytest.mark.parametrize("text", ["", "gpu:0", "cpu:", "cpu:-1", "cpu:0,", "cpu:0,cpu:0", "cpu,cpu:0", "cpu:123456"])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_devices(text)
    assert refusal.value.fix


def test_ratios_are_read() -> None:
    assert parse_ratios("3,1") == (3.0, 1.0)
    assert parse_ratios("0.5, 2") == (0.5, 2.0)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1;2"])
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ratios(text)
