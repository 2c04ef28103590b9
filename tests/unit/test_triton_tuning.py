"""Which tiles the linear kernels use: timed ones where there are some, sensible ones elsewhere. No card is needed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from kit.triton_device import DEVICE
from torch import Tensor

from rowspan.kernels.triton.card_family import CardFamily, CardModel, card_of
from rowspan.kernels.triton.linear import tuned
from rowspan.kernels.triton.linear.configs import Narrow, Unpacked, Wide, as_data, candidates, choose, from_data
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.pack import pack
from rowspan.kernels.triton.linear.tuning import tune

H200 = CardModel("H200", CardFamily.HOPPER, 132)
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A process that has just started, and its file."""
    path = tmp_path / "cache" / "tuning.json"
    monkeypatch.setenv("ROWSPAN_TUNING", str(path))
    forget()
    yield path
    forget()


def forget() -> None:
    tuned._known.cache_clear()
    tuned.config_for.cache_clear()


def config_for(tokens: int) -> object:
    return tuned.config_for("Q8_0", tokens, 32, 64, BF16, DEVICE)


@pytest.fixture(scope="module")
def weight() -> PlanarWeight:
    raw = torch.randint(0, 256, (32, 2, 34), dtype=torch.uint8)
    raw[..., :2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
    packed = pack("Q8_0", raw.flatten(1).to(DEVICE), BF16)
    assert isinstance(packed, PlanarWeight)
    return packed


def test_what_was_timed_is_used_by_this_process_and_the_next(results: Path) -> None:
    timed = Narrow(2, 2, units=32, num_warps=1)
    assert config_for(2) != timed
    tuned.remember("Q8_0", 2, 32, 64, BF16, DEVICE, timed)
    assert config_for(2) == timed
    forget()
    assert config_for(2) == timed
    assert config_for(3) == choose(card_of(DEVICE), 4, 32, 64, 8)  # of another bucket
    assert [path.name for path in results.parent.iterdir()] == ["tuning.json"]


def test_numbers_of_tokens_share_what_was_timed(results: Path) -> None:
    timed = Wide(64, 64, 64, 1, 4, 2)
    tuned.remember("Q8_0", 40, 32, 64, BF16, DEVICE, timed)
    assert {config_for(tokens) for tokens in (33, 40, 64)} == {timed}
    assert config_for(32) != timed
    assert config_for(65) != timed


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b'{"key": 1}',
        b'{"key": {"way": "fast"}}',
        b'{"key": {"way": "unpacked", "rows_at_once": -1}}',
        b'{"key": {"way": "unpacked", "rows_at_once": 1, "more": 1}}',
        b'{"key": {"way": "narrow", "tokens": 1, "block_rows": 3, "units": 32, "num_warps": 1}}',
    ],
)
def test_a_damaged_file_is_left_out_with_a_warning(
    results: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    results.parent.mkdir()
    results.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert config_for(1) == choose(card_of(DEVICE), 1, 32, 64, 8)
    assert "tuning.json is damaged" in caplog.text
    tuned.remember("Q8_0", 1, 32, 64, BF16, DEVICE, Unpacked(256))
    assert list(json.loads(results.read_bytes()).values()) == [{"way": "unpacked", "rows_at_once": 256}]


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROWSPAN_TUNING", str(tmp_path / "file" / "tuning.json"))
    tuned.remember("Q8_0", 1, 32, 64, BF16, DEVICE, Unpacked(256))
    assert "not kept" in caplog.text
    assert config_for(1) == Unpacked(256)  # in this process


@pytest.mark.parametrize("config", [Narrow(1, 4, 64, 2), Wide(16, 64, 64, 2, 4, 3), Unpacked(512)])
def test_configurations_are_plain_data(config: Narrow | Wide | Unpacked) -> None:
    assert from_data(json.loads(json.dumps(as_data(config)))) == config


@pytest.mark.parametrize("family", CardFamily)
@pytest.mark.parametrize("tokens", [1, 2, 16, 64, 256, 4096])
@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_candidates_begin_with_the_default_and_are_sound(family: CardFamily, tokens: int, bits: int) -> None:
    card = CardModel("some", family, 100)
    found = list(candidates(card, tokens, 4096, 4096, bits))
    assert found[0] == choose(card, tokens, 4096, 4096, bits)
    for config in found:
        assert from_data(as_data(config)) == config
        if isinstance(config, Narrow):
            assert config.tokens >= tokens
        if isinstance(config, Wide):
            assert min(config.block_rows, config.block_tokens) >= 16  # tl.dot's least
            assert config.block_columns >= 64  # a unit of 6 bits


def test_small_matrices_are_split_so_that_a_card_is_busy() -> None:
    few, many = choose(H200, 16, 1024, 4096, 8), choose(H200, 16, 128_000, 4096, 8)
    assert isinstance(few, Wide)
    assert isinstance(many, Wide)
    assert few.split == 8
    assert many.split == 1


def test_few_rows_have_their_columns_shared_out() -> None:
    """First among the warps of a program, and only where that is not enough among programs, which costs a launch."""
    many, few, fewest = (choose(H200, 1, rows, 32768, 8) for rows in (128_000, 1024, 64))
    assert isinstance(many, Narrow)
    assert isinstance(few, Narrow)
    assert isinstance(fewest, Narrow)
    assert (many.num_warps, few.num_warps, fewest.num_warps) == (2, 8, 8)
    assert (many.split, few.split) == (1, 1)
    assert fewest.split > 1


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
@pytest.mark.parametrize("family", CardFamily)
def test_a_step_of_5_to_16_tokens_is_one_configuration(family: CardFamily, bits: int) -> None:
    """So a token's bits do not depend on how many others there are."""
    card = CardModel("some", family, 100)
    assert len({choose(card, tuned.bucket(tokens), 4096, 4096, bits) for tokens in range(5, 17)}) == 1


def test_tuning_keeps_the_fastest_that_is_right(
    weight: PlanarWeight, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow, fast, wrong = Narrow(1, 32, 8, 1), Narrow(1, 16, 8, 1), Unpacked(256)
    monkeypatch.setattr("rowspan.kernels.triton.linear.tuning.candidates", lambda *_: iter((slow, wrong, fast)))
    # A card that computes wrong one way.
    monkeypatch.setattr(
        "rowspan.kernels.triton.linear.unpacked.linear", lambda x, weight, *_: x.new_ones(x.shape[0], weight.rows)
    )
    times = iter((2.0, 1.0))

    def measure(call: Callable[[], Tensor]) -> float:
        assert call().shape == (1, 32)
        return next(times)

    assert tune(weight, 1, BF16, measure) == fast
    assert config_for(1) == fast
    assert "computes wrong with Unpacked" in caplog.text


def test_tuning_says_when_nothing_is_right(weight: PlanarWeight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowspan.kernels.triton.linear.tuning.candidates", lambda *_: iter((Unpacked(256),)))
    monkeypatch.setattr(
        "rowspan.kernels.triton.linear.unpacked.linear", lambda x, weight, *_: x.new_ones(x.shape[0], weight.rows)
    )
    with pytest.raises(RuntimeError, match="no way of computing Q8_0 is right"):
        tune(weight, 1, BF16, lambda _: 1.0)
