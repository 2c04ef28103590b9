"""`rowspan tune`: what it asks for, and what it says where there is nothing to tune. No card is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kit.gguf_builder import TinyModel
from kit.triton_device import HAS_CARD
from typer.testing import CliRunner

from rowspan.cli.main import app
from rowspan.errors import UsageError
from rowspan.kernels.triton.linear.configs import Config, Narrow
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.worker import tune as program

CPU = torch.device("cpu")


def refused(*arguments: str) -> UsageError:
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert isinstance(result.exception, UsageError), result.output
    return result.exception


def test_only_cards_are_tuned() -> None:
    assert "--devices cpu:0 is not only cards" in refused("model.gguf", "--devices", "cpu:0").what
    assert "cuda:0,cpu:0" in refused("model.gguf", "--devices", "cuda:0,cpu:0").what


def test_only_what_triton_computes_in_is_tuned() -> None:
    error = refused("model.gguf", "--dtype", "float32")
    assert "bfloat16, float16" in error.fix


def test_without_triton_there_is_nothing_to_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowspan.kernels.isa.card_kernels", lambda: ["torch"])
    assert "Triton is not installed" in refused("model.gguf").what


@pytest.mark.skipif(HAS_CARD, reason="host without a card: this one has one")
def test_a_card_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = TinyModel(scheme="Q8_0").write(tmp_path / "tiny.gguf")
    command = [sys.executable, "-c", "from rowspan.cli.main import main; main()", "tune", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "There is no device cuda:0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, int]]:
    """Every matrix that is tuned, with the number of tokens."""
    asked: list[tuple[str, int, int, int]] = []

    def tune(weight: PlanarWeight, tokens: int, dtype: torch.dtype) -> Config:
        asked.append((weight.scheme, weight.rows, weight.columns, tokens))
        return Narrow(1, 1, 32, 1)

    monkeypatch.setattr(program, "tune", tune)
    return asked


def test_each_product_of_a_model_is_tuned_once_as_the_engine_has_it(
    tmp_path: Path, asked_for: list[tuple[str, int, int, int]]
) -> None:
    model = TinyModel(scheme="Q8_0", hidden_size=64, ffn_size=128, vocab_size=512)  # of two equal layers
    checkpoint = open_checkpoint(model.write(tmp_path / "tiny.gguf"))
    said = program.tune_models([CPU], torch.bfloat16, 8, 60.0, [checkpoint])
    one_token = [("Q8_0", 512, 64, 1), ("Q8_0", 256, 64, 1), ("Q8_0", 128, 64, 1), ("Q8_0", 64, 128, 1)]
    assert set(asked_for[:5]) == {*one_token, ("Q8_0", 64, 64, 1)}
    assert [tokens for *_, tokens in asked_for[::5]] == [1, 8, 4, 2]  # what matters most first
    assert said == "20 of 20 products of up to 8 tokens"


def test_time_is_kept(tmp_path: Path, asked_for: list[tuple[str, int, int, int]]) -> None:
    checkpoint = open_checkpoint(TinyModel(scheme="Q8_0").write(tmp_path / "tiny.gguf"))
    assert program.tune_models([CPU], torch.bfloat16, 8, -1.0, [checkpoint]).startswith("0 of 20 ")
    assert asked_for == []


def test_cards_of_one_kind_are_tuned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "open_card", lambda device: torch.device("meta", device.index))
    monkeypatch.setattr(program, "card_of", lambda card: type("Card", (), {"name": f"kind {card.index // 2}"}))
    assert [card.index for card in program.different_cards("cuda:0,cuda:1,cuda:2")] == [0, 2]
    with pytest.raises(UsageError, match="cpu:0 is not tuned"):
        program.different_cards("cuda:0,cpu:0")
