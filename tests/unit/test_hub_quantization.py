"""Which quantization of a model is chosen for a machine, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.recorded_rig import unpack

from rowspan.hub.machine import OF_CARDS, OF_RAM, room_for_weights
from rowspan.hub.quantization import FINEST_FIRST, GENEROUS, GIB, USUAL, Room, best_fit
from rowspan.rig.root import Root

LARGE = {  # a 70B model, 10^9 bytes
    "Q8_0/m-Q8_0-00001-of-00002.gguf": 40.0,
    "Q8_0/m-Q8_0-00002-of-00002.gguf": 35.0,
    "m-Q6_K.gguf": 57.9,
    "m-Q5_K_M.gguf": 49.9,
    "m-Q4_K_M.gguf": 42.5,
    "m-UD-Q4_K_XL.gguf": 43.0,
    "m-IQ4_XS.gguf": 37.9,
    "m-Q3_K_M.gguf": 34.3,
    "m-Q2_K.gguf": 26.4,
    "mmproj-F16.gguf": 1.0,
}
SIZES = {name: int(size * 1e9) for name, size in LARGE.items()}


def room(cards: float, ram: float) -> Room:
    return Room(int(cards * GIB), int(ram * GIB))


@pytest.mark.parametrize(
    ("cards", "ram", "scheme", "says"),
    [
        (160, 64, "Q8_0", "leave more than half of the cards' 160.0 GiB free"),
        (110, 64, "Q6_K", "leave more than half"),
        (48, 64, "Q4_K_M", "39.6 GiB of weights fit into the cards' 48.0 GiB"),
        (38, 64, "IQ4_XS", "fit into the cards' 38.0 GiB, Q4_K_M's 39.6 GiB not"),
        (33, 64, "Q3_K_M", "fit into the cards'"),
        (16, 64, "Q4_K_M", "fit if a part stays in RAM: the cards have room for 16.0 GiB"),
        (16, 10, "Q2_K", "fit if a part stays in RAM"),
        (8, 8, "Q2_K", "are the least there is, but the cards' memory has room for 8.0 GiB only"),
        (0, 200, "Q8_0", "of this machine's 200.0 GiB free"),
        (0, 40, "Q4_K_M", "fit into this machine's 40.0 GiB"),
        (0, 4, "Q2_K", "but this machine's memory has room for 4.0 GiB only"),
    ],
)
def test_what_is_chosen_and_why(cards: float, ram: float, scheme: str, says: str) -> None:
    fit = best_fit(SIZES, room(cards, ram))
    assert fit is not None
    assert fit.scheme == scheme
    assert says in fit.why
    assert all(scheme in part for part in fit.parts)
    assert len(fit.parts) == (2 if scheme == "Q8_0" else 1)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"gpt-oss-20b-mxfp4.gguf": 12},  # there is no choice
        {"a.gguf": 1, "b.gguf": 2},  # nothing is known about these
        {"m-Q4_K_M.gguf": 0, "m-Q8_0.gguf": 0},  # sizes unknown
    ],
)
def test_where_there_is_nothing_to_choose(sizes: dict[str, int]) -> None:
    assert best_fit(sizes, room(24, 64)) is None


@given(
    held=st.lists(st.sampled_from(FINEST_FIRST), min_size=2, unique=True),
    unit=st.integers(1, 100),
    cards=st.integers(0, 2000),
    ram=st.integers(1, 2000),
)
def test_the_choice_fits_whenever_anything_does(held: list[str], unit: int, cards: int, ram: int) -> None:
    sizes = {f"m-{scheme}.gguf": unit * (len(FINEST_FIRST) - FINEST_FIRST.index(scheme)) for scheme in held}
    fit = best_fit(sizes, Room(cards, ram))
    assert fit is not None
    chosen = sizes[f"m-{fit.scheme}.gguf"]
    memory = cards or ram
    if min(sizes.values()) <= memory:
        assert chosen <= memory
    elif min(sizes.values()) <= memory + ram * bool(cards):
        assert chosen <= cards + ram
    else:
        assert chosen == min(sizes.values())
    if FINEST_FIRST.index(fit.scheme) < FINEST_FIRST.index(USUAL) and any(
        FINEST_FIRST.index(scheme) >= FINEST_FIRST.index(USUAL) for scheme in held
    ):
        assert chosen <= GENEROUS * memory


@pytest.mark.parametrize(
    ("rig", "cards"),
    [("dual-3090-nvlink", 2 * 24 * GIB), ("7900xtx-igpu-in-the-way", 24 * GIB), ("cpu-only-server", 0)],
)
def test_the_room_of_a_recorded_machine(rig: str, cards: int, tmp_path: Path) -> None:
    unpack(rig, tmp_path / "root")
    found = room_for_weights(Root(tmp_path / "root"))
    assert found.cards == pytest.approx(cards * OF_CARDS, rel=0.01)  # firmware keeps a little for itself
    assert found.ram > 0
    assert OF_RAM < OF_CARDS < 1


def test_nothing_is_chosen_where_the_memory_is_unknown(tmp_path: Path) -> None:
    unpack("sandbox-without-sys", tmp_path / "root")
    assert best_fit(SIZES, room_for_weights(Root(tmp_path / "root"))) is None
