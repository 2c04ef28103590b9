"""Ranges, pairs, alternatives, and the grid they span."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowspan.bench.grid import Grid, Workload, longest, most_concurrent, workloads
from rowspan.bench.run.ranges import MAX_VALUES, alternatives, parse_names, parse_numbers, parse_pairs
from rowspan.errors import UsageError
from rowspan.plan.device import parse_devices
from rowspan.plan.split_mode import SplitMode


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["512"], (512,)),
        (["0"], (0,)),
        (["128,256"], (128, 256)),
        (["128", "256,64"], (128, 256, 64)),
        (["1-4"], (1, 2, 3, 4)),
        (["0-512+128"], (0, 128, 256, 384, 512)),
        (["0-500+128"], (0, 128, 256, 384)),
        (["1-64*2"], (1, 2, 4, 8, 16, 32, 64)),
        (["3-3"], (3,)),
        (["512, 16-32+16"], (512, 16, 32)),
    ],
)
def test_numbers_and_ranges(texts: list[str], values: tuple[int, ...]) -> None:
    assert parse_numbers("-p", texts) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "-1",
        "1.5",
        "1,",
        "1-",
        "5-1",
        "1-9+0",
        "1-9*1",
        "0-9*2",
        "1-9/2",
        "1-2-3",
        "0-1000000000",
        "99" * 9,
        "٣-",
    ],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-p") as refusal:
        parse_numbers("-p", [text])
    assert refusal.value.fix


@given(first=st.integers(0, 2000), length=st.integers(0, 2000), step=st.integers(1, 50))
def test_steps_are_those_of_range(first: int, length: int, step: int) -> None:
    expected = range(first, first + length + 1, step)
    if len(expected) <= MAX_VALUES:
        assert parse_numbers("-d", [f"{first}-{first + length}+{step}"]) == tuple(expected)


def test_too_small_a_number_is_refused() -> None:
    assert parse_numbers("-ub", ["1"], least=1) == (1,)
    with pytest.raises(UsageError, match="-ub 0 is too small"):
        parse_numbers("-ub", ["512,0"], least=1)


def test_names() -> None:
    assert parse_names("-sm", ["none,row", "layer"], SplitMode) == ("none", "row", "layer")
    with pytest.raises(UsageError, match="-sm 'tensor' is not known"):
        parse_names("-sm", ["none,tensor"], SplitMode)


def test_pairs() -> None:
    assert parse_pairs("-pg", ["512,128", " 64 , 1 "]) == ((512, 128), (64, 1))


@pytest.mark.parametrize("text", ["512", "512,", "512,0", "0,1", "1,2,3", "a,b", "1-2,3"])
def test_what_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-pg"):
        parse_pairs("-pg", [text])


def test_alternatives() -> None:
    assert alternatives(["cpu:0,cpu:1"]) == ("cpu:0,cpu:1",)
    assert alternatives(["cpu:0", "cpu:0,cpu:1"]) == ("cpu:0", "cpu:0,cpu:1")
    assert alternatives(["3/1,1/1"]) == ("3,1", "1,1")


@pytest.mark.parametrize(
    ("workload", "name"),
    [
        (Workload(512, 0), "pp512"),
        (Workload(0, 128), "tg128"),
        (Workload(512, 128), "pp512+tg128"),
        (Workload(0, 128, 4096), "tg128 @ d4096"),
        (Workload(0, 128, 4096, 16), "tg128 @ d4096 x16"),
    ],
)
def test_workloads_are_named_as_llama_bench_does(workload: Workload, name: str) -> None:
    assert workload.name == name


def test_prompts_generations_and_pairs_are_tests_of_their_own_at_every_depth() -> None:
    names = [workload.name for workload in workloads([512, 64], [128], [(16, 4)], [0, 32])]
    bare = ["pp512", "pp64", "tg128", "pp16+tg4"]
    assert names == bare + [f"{name} @ d32" for name in bare]


def test_zero_leaves_a_test_out() -> None:
    assert workloads([0], [0], [], [0, 8]) == []
    assert [workload.name for workload in workloads([0], [4], [], [0])] == ["tg4"]


def test_a_workload_knows_its_tokens() -> None:
    assert (Workload(10, 3, 7).n_tokens, Workload(10, 3, 7).context) == (13, 20)
    assert (Workload(10, 3, 7, 4).n_tokens, Workload(10, 3, 7, 4).context) == (52, 20)


def test_a_configuration_has_room_for_the_longest_and_the_most() -> None:
    work = workloads([512], [128], [], [0, 100], [1, 4])
    assert len(work) == 8
    (config, *_) = grid().configurations([Path("a")], longest(work).context, most_concurrent(work))
    assert (config.context_size, config.parallel, config.cache_tokens) == (612, 4, 4 * 640)


def grid() -> Grid:
    return Grid(
        devices=[parse_devices("cpu:0"), parse_devices("cpu:0,cpu:1")],
        split_modes=[SplitMode.LAYER, SplitMode.ROW],
        main_gpus=[0],
        tensor_splits=[None],
        dtypes=["float32"],
        cache_types_k=[None, "f16"],
        cache_types_v=[None],
        token_budgets=[128, 256, 512],
        threads=[None],
    )


def test_the_grid_is_every_combination() -> None:
    configurations = list(grid().configurations([Path("a"), Path("b")], 640))
    assert len(set(configurations)) == len(configurations) == 2 * (1 + 2) * 2 * 3
    assert [config.model_path.name for config in configurations] == ["a"] * 18 + ["b"] * 18
    assert {config.context_size for config in configurations} == {640}
    assert {config.parallel for config in configurations} == {1}


def test_layers_on_cards_are_one_of_the_grids_options() -> None:
    configurations = list(replace(grid(), gpu_layers=[10, 99]).configurations([Path("a")], 640))
    assert [config.gpu_layers for config in configurations[:2]] == [10, 99]
    assert len(set(configurations)) == 2 * 18


def test_the_context_is_never_less_than_a_block() -> None:
    config = next(grid().configurations([Path("a")], 1))
    assert config.context_size == config.block_size
