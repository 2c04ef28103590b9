"""What rounding costs, in perplexity of the real model on a fixed text (tests/data/persuasion.txt)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from kit.native_isas import BFLOATS, NATIVE
from kit.requantize import requantize
from kit.single_rank import SingleRank

from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.isa import TORCH
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.text.tokenizer import Tokenizer

TEXT = Path(__file__).parent.parent / "data" / "persuasion.txt"
WINDOW, N_WINDOWS = 256, 24  # tokens that are read together; windows, spread over the text


@pytest.fixture(scope="module")
def windows(smollm2_path: Path) -> list[list[int]]:
    tokens = Tokenizer.from_metadata(open_checkpoint(smollm2_path).metadata).encode(TEXT.read_text())
    step = (len(tokens) - WINDOW) // (N_WINDOWS - 1)
    return [tokens[start : start + WINDOW] for start in range(0, N_WINDOWS * step, step)]


def perplexity(model: SingleRank, windows: Sequence[list[int]]) -> float:
    """e to the mean of -log p of each token after those before it in its window."""
    losses = [
        torch.nn.functional.cross_entropy(model.logits(window)[:-1], torch.tensor(window[1:])) for window in windows
    ]
    return math.exp(float(torch.stack(losses).mean()))


@pytest.fixture(scope="module")
def exact(smollm2_path: Path, windows: list[list[int]]) -> float:
    """Of float32 arithmetic on the same weights."""
    return perplexity(SingleRank(smollm2_path, n_blocks=WINDOW // 32, dtype="float32"), windows)


@pytest.mark.heavy
@pytest.mark.skipif(not BFLOATS, reason="products of bfloat16: neither here nor emulated")
def test_rounding_to_bfloat16_costs_less_than_half_a_percent(
    smollm2_path: Path, windows: list[list[int]], tmp_path: Path
) -> None:
    """Tokens, and attention in tiles; of the same weights in bfloat16."""
    path = requantize(smollm2_path, tmp_path / "bf16.gguf", "BF16")
    few, n_blocks = windows[::4], WINDOW // 32
    exact = perplexity(SingleRank(path, n_blocks=n_blocks, dtype="float32"), few)
    for isa, cache in product(BFLOATS, ("int16", "bfloat16")):
        kernels = CpuKernels(isa, 2, int8=True)
        rounded = perplexity(SingleRank(path, n_blocks=n_blocks, kernels=kernels, cache=cache), few)
        print(f"{isa} {cache}: {rounded:.4f}, exact {exact:.4f}, {rounded / exact - 1:+.3%}")
        assert abs(rounded / exact - 1) < 0.005


OTHERS = [*((isa, "int16") for isa in NATIVE[1:]), *((isa, cache) for isa in NATIVE for cache in ("float16", "q8_0"))]
OTHERS += [(TORCH, "int8")]  # q8_0 of cards, beside exact products


@pytest.mark.parametrize(
    ("isa", "cache"),
    [*((isa, "int16") for isa in NATIVE[:1]), *(pytest.param(*other, marks=pytest.mark.heavy) for other in OTHERS)],
)
def test_rounding_costs_less_than_half_a_percent(
    isa: str, cache: str, smollm2_path: Path, windows: list[list[int]], exact: float
) -> None:
    assert 5 < exact < 100, "a sound model of English"
    dtype = "float32" if isa == TORCH else "int8"
    model = SingleRank(smollm2_path, n_blocks=WINDOW // 32, isa=isa, dtype=dtype, cache=cache)
    rounded = perplexity(model, windows)
    print(f"{isa} {cache}: {rounded:.4f}, exact {exact:.4f}, {rounded / exact - 1:+.3%}")
    assert abs(rounded / exact - 1) < 0.005
