"""Linear in Triton, against products of the dequantized weights in float64. Where there is no card, in Triton's
interpreter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from kit.triton_device import DEVICE
from torch import Tensor

from rowspan.kernels.torch.linear import DenseWeight
from rowspan.kernels.triton.linear import torch_fallback
from rowspan.kernels.triton.linear import unpacked as linear_unpacked
from rowspan.kernels.triton.linear.configs import Config, Narrow, Unpacked, Wide
from rowspan.kernels.triton.linear.dispatch import linear
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.pack import pack
from rowspan.quant.dequantize import dequantize
from rowspan.quant.scheme import SCHEMES

each_scheme = pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if not scheme.is_dense])
# These lie as IQ3_XXS, IQ2_S or TQ2_0 do, and so are multiplied.
ALIKE = ("IQ3_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0")
each_layout = pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(name, marks=pytest.mark.heavy) if name in ALIKE else name
        for name, scheme in SCHEMES.items()
        if not scheme.is_dense
    ],
)
# The bytes of a block at which its float16 numbers start, as ggml-common.h lays them out.
HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "IQ1_M": (),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def random_blocks(scheme: str, rows: int, columns: int, seed: int) -> Tensor:
    """Random bytes are valid blocks of every scheme; their float16 numbers are those of a model's weights."""
    rng = np.random.default_rng(seed)
    geometry = SCHEMES[scheme]
    raw = rng.integers(0, 256, (rows, columns // geometry.block_size, geometry.block_bytes), np.uint8)
    if geometry.has_exponents:
        raw[..., 0] = rng.integers(112, 120, raw.shape[:2])
    if geometry.has_e4m3:
        raw[..., :4] = rng.integers(0, 40, raw[..., :4].shape)
    if scheme == "IQ1_M":  # whose float16 lies in the highest bits of four words
        raw[..., 49::2] &= 0x0F
        raw[..., 55] |= 0x20
        raw[..., 53] |= rng.integers(0, 16, raw.shape[:2], np.uint8) << 4
    for start in () if geometry.has_exponents or geometry.has_e4m3 else HALVES.get(scheme, (0,)):
        numbers = rng.uniform(-0.01, 0.01, raw.shape[:2]).astype(np.float16)
        raw[..., start : start + 2] = numbers[..., None].view(np.uint8)
    return torch.from_numpy(raw.reshape(rows, geometry.row_bytes(columns))).to(DEVICE)


def random_weight(scheme: str, rows: int, columns: int, seed: int) -> tuple[PlanarWeight, Tensor]:
    """And what it is in float64."""
    raw = random_blocks(scheme, rows, columns, seed)
    weight = pack(scheme, raw, torch.bfloat16)
    assert isinstance(weight, PlanarWeight)
    return weight, dequantize(scheme, raw).double()


def tolerance(x: Tensor, matrix: Tensor, weight: PlanarWeight, expected: Tensor, rounded: bool) -> Tensor:
    """How far outputs may be off.

    The last rounding is half a unit of x's type, and rounding a weight to that type half a unit of the weight (of
    float16, at least 2^-25). Sums are float32: of the columns in some order, each addition off by at most 2^-24 of
    the magnitudes so far; the narrow kernel sums codes and minima apart, each of which may be larger than the weight.
    """
    unit = torch.finfo(x.dtype).eps / 2
    size = x.double().abs()
    magnitude = size @ matrix.abs().T
    largest = 2 * float(matrix.abs().max()) if weight.minima is not None else 0.0
    sums = weight.columns * 2**-24 * (magnitude + largest * size.sum(1, keepdim=True))
    weights = unit * magnitude + 2**-25 * size.sum(1, keepdim=True) if rounded else 0.0
    return unit * expected.abs() + sums + weights


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is not initialized holds NaN: what a kernel does not write, or reads and should not, shows."""
    empty = torch.empty

    def poisoned(*size: int, **options: object) -> Tensor:
        made: Tensor = empty(*size, **options)  # type: ignore[call-overload]
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)


def check(
    scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype, config: Config | None, bias: bool = False
) -> None:
    torch.manual_seed(tokens)
    weight, matrix = random_weight(scheme, rows, columns, seed=rows + columns)
    if scheme == "NVFP4":  # whose files have factors of products
        factors = torch.empty(rows).uniform_(0.5, 1).to(DEVICE)
        weight, matrix = replace(weight, row_scales=factors), matrix * factors[:, None].double()
    # Rows of x lie apart, with NaN between them.
    around = torch.full((tokens, columns + 16), math.nan, dtype=dtype, device=DEVICE)
    x = around[:, :columns]
    x.copy_(torch.randn(tokens, columns))
    added = torch.randn(rows).to(DEVICE, dtype) if bias else None
    y = linear(x, weight, added, config)
    assert y.dtype == dtype
    assert y.shape == (tokens, rows)
    expected = x.double() @ matrix.T
    allowed = tolerance(x, matrix, weight, expected, rounded=not isinstance(config, Narrow))
    if added is not None:
        expected += added.double()
        allowed += torch.finfo(dtype).eps * added.double().abs()
    error = (y.double() - expected).abs()
    assert (error <= allowed).all(), f"{float((error / allowed).max()):.2f} times too far"


@each_scheme
@pytest.mark.parametrize("blocks", [1, 3])
def test_unpacked_weights_are_those_of_the_file(scheme: str, blocks: int) -> None:
    columns = blocks * SCHEMES[scheme].block_size
    raw = random_blocks(scheme, 11, columns, seed=blocks)
    weight = pack(scheme, raw, torch.bfloat16)
    assert isinstance(weight, PlanarWeight)
    out = torch.empty(9, columns, device=DEVICE)
    linear_unpacked.unpack(weight, 2, out)
    assert torch.equal(out, dequantize(scheme, raw)[2:])


def test_a_cut_of_the_columns_is_packed_as_a_matrix_of_its_own() -> None:
    raw = random_blocks("Q4_0", 5, 320, seed=0)
    bytes_of_cut = slice(3 * 18, 8 * 18)  # five of ten blocks, as a rank of a split by row gets them
    weight = pack("Q4_0", raw[:, bytes_of_cut], torch.bfloat16)
    assert isinstance(weight, PlanarWeight)
    out = torch.empty(5, 160, device=DEVICE)
    linear_unpacked.unpack(weight, 0, out)
    assert torch.equal(out, dequantize("Q4_0", raw)[:, 96:256])


def test_packing_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_blocks("Q5_1", 10, 96, seed=0)
    at_once = pack("Q5_1", raw, torch.bfloat16)
    monkeypatch.setattr("rowspan.kernels.triton.linear.pack.ELEMENTS_AT_ONCE", 3 * 96)
    in_pieces = pack("Q5_1", raw, torch.bfloat16)
    assert isinstance(at_once, PlanarWeight)
    assert isinstance(in_pieces, PlanarWeight)
    for one, other in zip(at_once.planes, in_pieces.planes, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]


# The shares of a model's size that the layout's own description names.
BITS_EACH = {"Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 6.5, "Q5_1": 7}
BITS_EACH |= {"Q2_K": 3.125, "Q3_K": 4.5625, "Q4_K": 4.625, "Q5_K": 6.625, "Q6_K": 6.5625}
BITS_EACH |= {"IQ4_NL": 4.5, "IQ4_XS": 4.3125, "MXFP4": 4.25, "NVFP4": 4.5}
BITS_EACH |= dict.fromkeys(("IQ3_S", "IQ3_XXS", "IQ2_XXS", "IQ1_S"), 4.3125)
BITS_EACH |= dict.fromkeys(("IQ2_S", "IQ2_XS", "IQ1_M"), 4.5625) | dict.fromkeys(("TQ2_0", "TQ1_0"), 2.3125)


@each_scheme
def test_size(scheme: str) -> None:
    weight = pack(scheme, random_blocks(scheme, 4, 512, seed=0), torch.bfloat16)
    assert weight.nbytes * 8 == BITS_EACH[scheme] * 4 * 512


@pytest.mark.parametrize("scheme", ["F32", "F16", "BF16"])
def test_dense_weights_stay_dense(scheme: str) -> None:
    matrix = torch.randn(5, 24).to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[scheme])
    weight = pack(scheme, matrix.view(torch.uint8).to(DEVICE), torch.bfloat16)
    assert isinstance(weight, DenseWeight)
    x = torch.randn(3, 24).to(DEVICE, torch.bfloat16)
    assert torch.equal(linear(x, weight), x @ matrix.to(DEVICE, torch.bfloat16).T)


@each_layout
def test_narrow(scheme: str) -> None:
    columns = SCHEMES[scheme].block_size * (5 if SCHEMES[scheme].has_sub_scales else 37)
    check(scheme, 3, 37, columns, torch.bfloat16, Narrow(4, 32, units=16, num_warps=1))


@pytest.mark.parametrize("scheme", ["Q8_0", "Q4_K", "Q6_K", "NVFP4"])
@pytest.mark.parametrize("split", [2, 8])  # of 8 parts, the last ones have no columns
def test_narrow_in_parts(scheme: str, split: int) -> None:
    columns = SCHEMES[scheme].block_size * (5 if SCHEMES[scheme].has_sub_scales else 37)
    check(scheme, 2, 37, columns, torch.float16, Narrow(2, 16, 8, 1, split=split), bias=True)


@each_layout
@pytest.mark.parametrize(("tokens", "dtype"), [(2, torch.float16), (17, torch.bfloat16)])
def test_wide(scheme: str, tokens: int, dtype: torch.dtype) -> None:
    columns = SCHEMES[scheme].block_size * (2 if SCHEMES[scheme].has_sub_scales else 11)
    check(scheme, tokens, 40, columns, dtype, Wide(16, 32, 128, split=2, num_warps=4, num_stages=2, band=1))


@each_layout
def test_unpacked_by_pieces(scheme: str) -> None:
    columns = SCHEMES[scheme].block_size * (1 if SCHEMES[scheme].has_sub_scales else 5)
    check(scheme, 17, 37, columns, torch.bfloat16, Unpacked(16), bias=True)


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 17, 64, 600])
@pytest.mark.parametrize("scheme", ["Q8_0", "Q4_1"])
def test_defaults(scheme: str, tokens: int) -> None:
    check(scheme, tokens, 20 + tokens % 7, 544, (torch.float16, torch.bfloat16)[tokens % 2], None, bias=True)


def test_tiles_in_bands_cover_all_rows_and_tokens() -> None:
    check("Q8_0", 50, 90, 64, torch.bfloat16, Wide(16, 16, 64, split=1, num_warps=4, num_stages=2, band=4))


NARROW = [Narrow(4, 16, units=8, num_warps=1), Narrow(4, 16, 4, 1, split=2)]


@pytest.mark.parametrize("config", [*NARROW, Wide(16, 16, 64, 2, 4, 2)])
def test_bits_of_a_token_do_not_depend_on_others(config: Config) -> None:
    weight, _ = random_weight("Q4_K", 20, 256, seed=3)
    x = torch.randn(4, 256).to(DEVICE, torch.bfloat16)
    together = linear(x, weight, None, config)
    for token in range(4):
        assert torch.equal(linear(x[token : token + 1], weight, None, config), together[token : token + 1])


@pytest.mark.parametrize("config", [*NARROW, Wide(16, 16, 64, 1, 4, 2), Wide(16, 16, 64, 2, 4, 2), Unpacked(16)])
def test_logits_are_not_rounded(config: Config) -> None:
    weight, matrix = random_weight("Q8_0", 20, 256, seed=3)
    x = torch.randn(3, 256).to(DEVICE, torch.bfloat16)
    result = linear(x, weight, None, config, torch.float32)
    assert result.dtype == torch.float32
    assert not torch.equal(result, result.bfloat16().float())
    # Of what rounding the weights leaves, where they are rounded; outputs' own rounding would be 4e-3 of each.
    expected, exact = x.double() @ matrix.T, isinstance(config, Narrow)
    magnitude = x.double().abs() @ matrix.abs().T
    assert ((result.double() - expected).abs() <= (1e-6 if exact else 2**-9) * magnitude).all()
    if not isinstance(config, Unpacked):
        assert torch.equal(result.bfloat16(), linear(x, weight, None, config))


def test_logits_of_dense_weights_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, x = torch.randn(50, 96).bfloat16(), torch.randn(3, 96).bfloat16()
    weight = pack("BF16", matrix.view(torch.uint8).to(DEVICE), torch.bfloat16)
    monkeypatch.setattr("rowspan.kernels.torch.linear.ELEMENTS_AT_ONCE", 7 * 96)  # pieces of rows
    result = linear(x.to(DEVICE), weight, dtype=torch.float32).cpu()
    torch.testing.assert_close(result.double(), x.double() @ matrix.double().T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(0, 64), (8, 0), (0, 0)])
def test_ranks_that_have_nothing(rows: int, columns: int) -> None:
    weight = pack("Q8_0", random_blocks("Q8_0", rows, columns, seed=0), torch.bfloat16)
    x = torch.randn(2, columns).to(DEVICE, torch.bfloat16)
    assert torch.equal(linear(x, weight), x.new_zeros(2, rows))
    bias = torch.randn(rows).to(DEVICE, torch.bfloat16)
    assert torch.equal(linear(x, weight, bias), bias.expand(2, rows))
    assert linear(x[:0], weight).shape == (0, rows)


@each_layout
def test_torch_unpacks_exactly(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = 2 * SCHEMES[scheme].block_size + (256 if SCHEMES[scheme].block_size < 256 else 0)
    weight, matrix = random_weight(scheme, 7, columns, seed=3)
    assert torch.equal(torch_fallback.unpack(weight, slice(2, 6)).double(), matrix[2:6])
    monkeypatch.setattr("rowspan.kernels.torch.linear.ELEMENTS_AT_ONCE", 3 * columns)
    x, bias = (torch.randn(size).to(DEVICE, torch.bfloat16) for size in ((5, columns), (7,)))
    result = torch_fallback.linear(x, weight, bias, x.dtype)
    expected = x.double() @ matrix.T + bias.double()
    error = (result.double() - expected).abs()
    unit = torch.finfo(torch.bfloat16).eps / 2
    magnitude = x.double().abs() @ matrix.abs().T
    # A product is rounded, and the sum with the bias, and every weight.
    assert (error <= unit * (expected.abs() + 2.1 * magnitude) + unit * (expected - bias.double()).abs()).all()
