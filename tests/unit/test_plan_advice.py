"""Advice on rigs: what is compared, what is said of it."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rowspan.errors import UsageError
from rowspan.plan.rigs.advice import Advice, AdviceRequest, advise
from rowspan.plan.rigs.advice_table import lines, notes, to_dict
from rowspan.plan.rigs.capacity import Load
from rowspan.plan.rigs.model_shapes import find_model
from rowspan.plan.rigs.outline import Outline, outline_of_spec
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.catalog.known_cards import find_card, known_cards
from rowspan.rig.catalog.rigs import parse_prices, parse_rigs

ASKED = '2xW7900DS,4xRTX4090,2x"RTX 6000 Ada",3xRTX 4090'


def outline(name: str = "llama-3-70b", scheme: str = "Q8_0") -> Outline:
    known = find_model(name)
    assert known is not None
    return outline_of_spec(known.spec, scheme)


def advice(
    rigs: str = ASKED, model: Outline | None = None, load: Load | None = None, prices: dict[str, float] | None = None
) -> Advice:
    return advise(model or outline(), parse_rigs(rigs, prices), AdviceRequest(load or Load(8192, 16)))


def cells(of: Advice, label: str) -> tuple[str, ...]:
    return next(line[1:] for line in lines(of) if line[0] == label)


def test_the_issue_s_own_question() -> None:
    answer = advice()
    assert [rig.best is not None for rig in answer.rigs] == [True, True, True, False]
    assert [rig.fewest for rig in answer.rigs] == [2, 4, 2, 4]
    assert [rig.rig.watts for rig in answer.rigs] == [590, 1800, 600, 1350]
    assert [rig.rig.price for rig in answer.rigs] == [6998, 6396, 13600, 4797]
    assert [rig.rig.slots for rig in answer.rigs] == [4, 12, 4, 9]
    assert all(rig.best.mode is SplitMode.ROW for rig in answer.rigs[:3] if rig.best)
    text = " ".join(answer.words)
    assert "3x RTX 4090 does not hold llama-3-70b Q8_0. It takes 4 of these cards, or Q6_K." in text
    assert answer.words[0].startswith("4x RTX 4090 with --split-mode row, the most speed for its price")
    assert any("risers" in note and "4x RTX 4090" in note for note in notes(answer))


def test_slots_of_the_whole_context() -> None:
    assert cells(advice(), "requests of 8192 at once")[3] == "-"
    answer = advice("2xW7900DS", load=Load(2048, 4))
    assert cells(answer, "requests of 2048 at once") == ("4 of 4",)
    assert cells(answer, "with 4 full requests") == ("Q8_0",)


def test_prices_decide_what_is_recommended() -> None:
    dear = advice(prices={"RTX 4090": 4000.0})
    assert dear.words[0].startswith("2x W7900DS")
    assert dear.rigs[1].rig.price == 16000


def test_what_if_answers_are_the_largest_that_fit() -> None:
    rig = advice("1xRTX 4090", outline("llama-3-8b", "F16"), Load(8192, 1)).rigs[0]
    assert rig.best_quantization(1) == "F16"
    small = advice("1xRX 9070 XT", outline("llama-3-8b", "F16"), Load(8192, 1)).rigs[0]
    assert small.best_quantization(1) == "Q8_0"
    assert advice("1xRTX 4090", load=Load(8192, 1)).rigs[0].best_quantization(1) is None
    own = outline("llama-3-8b", "Q4_K_M")
    assert advice("W7900", own, Load(8192, 1)).rigs[0].best_quantization(1) == "F16", "not only smaller than its own"


def test_layers_left_in_ram_have_no_forecast() -> None:
    answer = advice("1xRTX 4090", outline("llama-3-70b", "Q4_K_M"), Load(4096, 1, gpu_layers=30))
    (option,) = answer.rigs[0].options
    assert option.fits
    assert option.forecast is None
    assert "RAM for the other layers" in [line[0] for line in lines(answer)]
    assert "no forecast" in " ".join(answer.words)


def test_a_split_that_cannot_be_says_why() -> None:
    answer = advice("40xRTX 4090", outline("smollm2-135m"), Load(2048, 1))
    assert any("30 layers cannot be split over 40" in note for note in notes(answer))


def test_unlike_cards_share_by_memory() -> None:
    answer = advice("1xRTX 4090+1xRTX 6000 Ada", outline("llama-3-70b", "Q4_K_M"), Load(4096, 1))
    layer = next(option for option in answer.rigs[0].options if option.mode is SplitMode.LAYER)
    assert layer.placement is not None
    small, large = (need.weights for need in layer.placement.needs)
    assert large == pytest.approx(2 * small, rel=0.1)
    assert answer.rigs[0].fewest is None
    assert layer.fits


def test_json_says_what_the_table_says() -> None:
    answer = to_dict(advice())
    assert [rig["fits"] for rig in answer["rigs"]] == [True, True, True, False]
    layer = answer["rigs"][0]["splits"]["layer"]
    assert layer["requests_at_once"] == 8
    for card in layer["cards"]:
        assert (
            card["total"] == card["weights"] + card["cache"] + card["activations"] + card["overhead"] <= card["usable"]
        )
    assert layer["forecast"]["tg"]["low"] < layer["forecast"]["tg"]["value"]


@settings(max_examples=25)
@given(
    rigs=st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from([card.name for card in known_cards()])), min_size=1, max_size=4
    ),
    name=st.sampled_from(["llama-3-8b", "mixtral-8x7b", "deepseek-v2-lite"]),
    context=st.integers(64, 30000),
    parallel=st.integers(1, 32),
)
@example(rigs=[(1, "RX 7900 XTX")], name="mixtral-8x7b", context=64, parallel=1).via("nothing fits: no notes")
def test_every_rig_gets_an_answer(rigs: list[tuple[int, str]], name: str, context: int, parallel: int) -> None:
    asked = ",".join(f"{count}x{card}" for count, card in rigs)
    answer = advice(asked, outline(name, "Q4_K_M"), Load(context, parallel))
    assert [rig.rig.cards[0].name for rig in answer.rigs] == [card for _, card in rigs]
    assert len({len(line) for line in lines(answer)}) == 1
    assert answer.words
    foretold = any(rig.tg for rig in answer.rigs)
    assert foretold == any(note.startswith("Speeds") for note in notes(answer))
    assert to_dict(answer)["rigs"]
    for rig in answer.rigs:
        assert (rig.tg is not None) == (rig.best is not None)


def test_cards_by_many_spellings() -> None:
    for text, name in (
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("w7900ds", "W7900DS"),
        ("7900xtx", "RX 7900 XTX"),
        ("Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("Ryzen AI Max+ 395", "Ryzen AI Max+ 395"),
        ("6000 ada", "RTX 6000 Ada"),
    ):
        assert find_card(text).name == name
    for card in known_cards():
        assert find_card(card.name) == card


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2xRTX 4900", "RTX 4090"),
        ("A100", "A100 80GB SXM"),
        ("", "rigs parted by commas"),
        ("2x", "No card|without cards|--list"),
        ("0xRTX 4090", "1 to 64"),
        ("999xRTX 4090", "1 to 64"),
        ("2xRTX 4090,,", "rigs parted by commas"),
    ],
)
def test_what_is_no_rig_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_rigs(text)
    assert re.search(says, str(refusal.value))


@given(text=st.text(max_size=20))
def test_no_text_breaks_the_parsing(text: str) -> None:
    for parse in (parse_rigs, lambda text: parse_prices([text])):
        with contextlib.suppress(UsageError):
            parse(text)


def test_a_name_with_a_plus_is_one_card() -> None:
    (rig,) = parse_rigs("Ryzen AI Max+ 395")
    assert rig.name == "Ryzen AI Max+ 395"
    (mixed,) = parse_rigs("2xRTX 3090 + 1xRTX 4090")
    assert (mixed.name, len(mixed.cards)) == ("2x RTX 3090 + RTX 4090", 3)
    assert mixed.slots == 9
    assert parse_rigs("MI300X")[0].slots is None


def test_prices_are_read() -> None:
    assert parse_prices(["RTX 3090=700", "4090 = $1,5".replace(",", ".")]) == {"RTX 3090": 700, "RTX 4090": 1.5}
    for text in ("RTX 3090", "RTX 3090=", "RTX 3090=-1", "RTX 3090=nan", "=5"):
        with pytest.raises(UsageError):
            parse_prices([text])
