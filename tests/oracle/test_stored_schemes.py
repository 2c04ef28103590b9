"""Other formats' schemes, from named parts: groups of 128, zero points, columns out of order, 8-bit floats in tiles.

None of them is read yet. Each is described by the one function that a scheme takes, and multiplied by torch's kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from kit import triton_device  # noqa: F401 (before any kernel)
from kit.native_isas import NATIVE
from numpy.typing import NDArray

from rowspan.errors import UnsupportedModelError
from rowspan.kernels.cpu.kernels import CpuKernels
from rowspan.kernels.torch.card_memory import CardMemory
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.kernels import TritonKernels
from rowspan.quant.dequantize import PLANAR, Parts
from rowspan.quant.planar import Planar
from rowspan.quant.stored import StoredMatrix

ROWS, COLUMNS, GROUP = 48, 512, 128
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # of eight codes from the lowest bits of a word on
CPU = torch.device("cpu")


@dataclass
class Example:
    """A matrix of random numbers as some format stores it; exact: its values, float64."""

    planar: Callable[[Parts], Planar]
    parts: dict[str, NDArray[Any]]
    exact: NDArray[np.float64]


def in_words(codes: NDArray[np.integer[Any]], axis: int, order: list[int]) -> NDArray[np.int32]:
    """Eight codes of 4 bits to a word, along an axis."""
    eights = np.moveaxis(codes, axis, -1).reshape(*np.moveaxis(codes, axis, -1).shape[:-1], -1, 8)[..., order]
    words = (eights.astype(np.uint32) << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def from_words(words: torch.Tensor, axis: int, order: list[int]) -> torch.Tensor:
    eights = (words.movedim(axis, -1).unsqueeze(-1) >> torch.arange(0, 32, 4)) & 15
    return eights[..., np.argsort(order)].flatten(-2).movedim(-1, axis).to(torch.uint8)


def gptq_planar(parts: Parts) -> Planar:
    """Codes (columns / 8, rows), zero points less 1 (groups, rows / 8), scales (groups, rows); g_idx tells each
    column's group, in whose order they are put."""
    in_order = list(range(8))
    order = torch.argsort(parts["g_idx"], stable=True)
    return Planar(
        from_words(parts["qweight"], 0, in_order)[order].T,
        parts["scales"].T.float(),
        zeros=from_words(parts["qzeros"], 1, in_order).T.int() + 1,
        permutation=order,
    )


def awq_planar(parts: Parts) -> Planar:
    """Codes (columns, rows / 8), zero points (groups, rows / 8), scales (groups, rows)."""
    codes, zeros = (from_words(parts[name], 1, AWQ_ORDER) for name in ("qweight", "qzeros"))
    return Planar(codes.T, parts["scales"].T.float(), zeros=zeros.T)


def fp8_planar(parts: Parts) -> Planar:
    """E4M3 (rows, columns), and a float32 scale for each tile of 128 rows and columns."""
    scales = parts["weight_scale_inv"].repeat_interleave(GROUP, dim=0)[:ROWS]
    return Planar(parts["weight"].view(torch.float8_e4m3fn), scales)


def random_codes(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Codes (rows, columns), zero points 1 … 16 and scales (rows, groups)."""
    groups = COLUMNS // GROUP
    scales = rng.uniform(0.001, 0.02, (ROWS, groups)).astype(np.float16)
    return rng.integers(0, 16, (ROWS, COLUMNS)), rng.integers(1, 17, (ROWS, groups)), scales


def gptq(rng: np.random.Generator, *, shuffled: bool) -> Example:
    codes, zeros, scales = random_codes(rng)
    group = np.arange(COLUMNS) // GROUP
    if shuffled:
        rng.shuffle(group)
    in_order = list(range(8))
    parts = {
        "qweight": in_words(codes.T, 0, in_order),
        "qzeros": in_words(zeros.T - 1, 1, in_order),
        "scales": np.ascontiguousarray(scales.T),
        "g_idx": group.astype(np.int32),
    }
    return Example(gptq_planar, parts, scales.astype(np.float64)[:, group] * (codes - zeros[:, group]))


def awq(rng: np.random.Generator) -> Example:
    codes, zeros, scales = random_codes(rng)
    zeros -= 1
    parts = {
        "qweight": in_words(codes.T, 1, AWQ_ORDER),
        "qzeros": in_words(zeros.T, 1, AWQ_ORDER),
        "scales": np.ascontiguousarray(scales.T),
    }
    group = np.arange(COLUMNS) // GROUP
    return Example(awq_planar, parts, scales.astype(np.float64)[:, group] * (codes - zeros[:, group]))


def fp8(rng: np.random.Generator) -> Example:
    bits = rng.integers(0, 127, (ROWS, COLUMNS), np.uint8) | rng.choice(np.array([0, 128], np.uint8), (ROWS, COLUMNS))
    scales = rng.uniform(0.001, 0.02, (-(-ROWS // GROUP), COLUMNS // GROUP)).astype(np.float32)
    mantissa, exponent = bits & 7, (bits >> 3 & 15).astype(np.int64)
    numbers = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    numbers *= np.where(bits >> 7, -1, 1)
    exact = numbers * scales.astype(np.float64).repeat(GROUP, 0)[:ROWS].repeat(GROUP, 1)
    return Example(fp8_planar, {"weight": bits, "weight_scale_inv": scales}, exact)


EXAMPLES: dict[str, Callable[[np.random.Generator], Example]] = {
    "GPTQ": lambda rng: gptq(rng, shuffled=False),
    "GPTQ by activation order": lambda rng: gptq(rng, shuffled=True),
    "AWQ": awq,
    "FP8": fp8,
}


def stored(name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> tuple[StoredMatrix, Example]:
    example = EXAMPLES[name](rng)
    monkeypatch.setitem(PLANAR, name, example.planar)
    return StoredMatrix(name, ROWS, COLUMNS, example.parts), example


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("uploaded", [False, True])
def test_products_of_named_parts(name: str, uploaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([*name.encode()])
    matrix, example = stored(name, rng, monkeypatch)
    kernels = TorchKernels(torch.float32)
    if uploaded:
        kernels.memory = CardMemory(CPU, torch.float32)
        monkeypatch.setattr("rowspan.kernels.torch.linear.pack", DenseWeight)  # oneDNN's cannot be held for a card
    weight = kernels.matrix(matrix)
    x = rng.standard_normal((7, COLUMNS)).astype(np.float32)
    y = kernels.linear(torch.from_numpy(x), weight).numpy()
    magnitude = np.abs(x).astype(np.float64) @ np.abs(example.exact).T
    assert (np.abs(y - x.astype(np.float64) @ example.exact.T) <= COLUMNS * 2.0**-24 * magnitude).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_kernels_that_lack_a_layout_refuse_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, example = stored(name, np.random.default_rng(0), monkeypatch)
    fast: list[Any] = [TritonKernels(torch.float16, CPU, CardMemory(CPU, torch.float16), None)]
    fast += [CpuKernels(isa, 1, int8=True) for isa in NATIVE]
    for kernels in fast:
        with pytest.raises(UnsupportedModelError, match=f"scheme {name} cannot .* as {', '.join(example.parts)}"):
            kernels.matrix(matrix)
