"""Packed weights, unpacked by what native/matrix.hpp says of them, against the dequantization of the same blocks."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.kernels.isa import native_module
from rowspan.quant.dequantize import dequantize
from rowspan.quant.panels import PackedMatrix, aligned, pack
from rowspan.quant.scheme import SCHEMES, Codes
from rowspan.quant.stored import StoredMatrix

NATIVE: Any = native_module()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="native kernels: none here")


def cpu(threads: int) -> Any:
    """Whose threads pack."""
    return NATIVE.Cpu(NATIVE.isas()[0], threads)


def packed_by(cpu: Any, scheme: str, raw: Any) -> PackedMatrix:
    return pack(NATIVE, cpu, StoredMatrix.of_blocks(scheme, raw), aligned)


each_scheme = pytest.mark.parametrize("scheme", SCHEMES)
# The bytes of a block at which its float16 numbers start, as ggml-common.h lays them out.
HALVES = {
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "MXFP4": (),
    "NVFP4": (),
    "IQ3_S": (0,),
    "IQ3_XXS": (0,),
    "IQ2_S": (0,),
    "IQ2_XS": (0,),
    "IQ2_XXS": (0,),
    "IQ1_M": (),
    "IQ1_S": (0,),
    "TQ2_0": (64,),
    "TQ1_0": (52,),
}
# What the kernels count on: kind of codes, zero, columns of a group, whether there are sub-scales and minima.
LAYOUTS = {
    "F32": (Codes.F32, 0, 1, False, False),
    "F16": (Codes.F16, 0, 1, False, False),
    "BF16": (Codes.BF16, 0, 1, False, False),
    "Q8_0": (Codes.U8, 128, 32, False, False),
    "Q4_0": (Codes.U4, 8, 32, False, False),
    "Q4_1": (Codes.U4, 0, 32, False, True),
    "Q5_0": (Codes.U6, 16, 32, False, False),
    "Q5_1": (Codes.U6, 0, 32, False, True),
    "Q2_K": (Codes.U4, 0, 16, True, True),
    "Q3_K": (Codes.U4, 4, 16, True, False),
    "Q4_K": (Codes.U4, 0, 32, True, True),
    "Q5_K": (Codes.U6, 0, 32, True, True),
    "Q6_K": (Codes.U6, 32, 16, True, False),
    "IQ4_NL": (Codes.T4, 128, 32, False, False),
    "IQ4_XS": (Codes.T4, 128, 32, True, False),
    "MXFP4": (Codes.T4, 128, 32, False, False),
    "NVFP4": (Codes.T4, 128, 16, False, False),
    "IQ3_S": (Codes.T4, 128, 32, False, False),
    "IQ3_XXS": (Codes.T4, 128, 32, False, False),
    "IQ2_S": (Codes.T4, 128, 16, False, False),
    "IQ2_XS": (Codes.T4, 128, 16, False, False),
    "IQ2_XXS": (Codes.T4, 128, 32, False, False),
    "IQ1_M": (Codes.T4, 128, 16, False, False),
    "IQ1_S": (Codes.T4, 128, 32, False, False),
    "TQ2_0": (Codes.U4, 1, 32, False, False),
    "TQ1_0": (Codes.U4, 1, 32, False, False),
}
ODD_FACTORS = ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0")
UNITS = {"IQ3_XXS": 1 / 2} | dict.fromkeys(("IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), 1 / 8)


def random_rows(scheme: str, rows: int, blocks: int, seed: int, widest: bool = False) -> np.ndarray:
    """Random bytes are valid blocks of every scheme; `widest`: with float16 numbers at the ends of their range."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks, SCHEMES[scheme].block_bytes), np.uint8)
    for start in HALVES.get(scheme, ()) if widest else ():
        numbers = rng.choice([0x0000, 0x0001, 0x03FF, 0x07FF, 0x3BFF, 0x7BFF, 0x7C00, 0x7E00], (rows, blocks, 1))
        signs = rng.choice([0, 0x8000], numbers.shape)
        raw[..., start : start + 2] = (numbers | signs).astype(np.uint16).view(np.uint8)
    return raw.reshape(rows, blocks * SCHEMES[scheme].block_bytes)


def reference(scheme: str, raw: np.ndarray) -> np.ndarray:
    return dequantize(scheme, torch.from_numpy(raw.copy())).numpy()


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype == np.float32
    assert actual.shape == expected.shape
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), ~numbers)
    np.testing.assert_array_equal(actual[numbers].view(np.int32), expected[numbers].view(np.int32))


def rows_of(panels: np.ndarray) -> np.ndarray:
    """(panels, n, 16, …) → (rows with those that fill the last panel, n · …)."""
    return panels.swapaxes(1, 2).reshape(-1, panels.shape[1] * prod(panels.shape[3:]))


def scales_of(packed: PackedMatrix) -> np.ndarray:
    """Of blocks, in panels."""
    if packed.exponents is not None:
        assert packed.scales is None
        return np.ldexp(np.float32(1), packed.exponents.astype(np.int32) - 128)
    if packed.e4m3 is not None:
        assert packed.scales is None
        mantissa, exponent = packed.e4m3 & 7, (packed.e4m3 >> 3).astype(np.int32)
        numbers = np.where(exponent > 0, np.ldexp(8.0 + mantissa, exponent - 10), np.ldexp(1.0 * mantissa, -9))
        halved: np.ndarray = (numbers / 2).astype(np.float32)
        return halved
    assert packed.scales is not None
    return packed.scales


def per_column(packed: PackedMatrix, halves: np.ndarray, eighths: np.ndarray | None) -> np.ndarray:
    """Scales or minima, (rows, columns) float32."""
    group = packed.group if eighths is None else 256
    result = rows_of(halves).astype(np.float32).repeat(group, axis=1)
    return result if eighths is None else result * rows_of(eighths).astype(np.float32).repeat(packed.group, axis=1)


def factors_of(packed: PackedMatrix) -> np.ndarray | None:
    """The numbers that groups' scales are multiplied by, in panels."""
    if packed.odd_factors is None:
        return packed.sub_scales
    assert packed.sub_scales is None
    pairs: np.ndarray = np.stack([packed.odd_factors & 15, packed.odd_factors >> 4], axis=2)
    return 2 * pairs.reshape(len(pairs), -1, 16) + 1


def codes_of(packed: PackedMatrix) -> np.ndarray:
    """A quantized matrix's codes, rows that fill the last panel among them."""
    codes = packed.codes
    if packed.kind in (Codes.U4, Codes.T4):
        codes = np.stack([codes & 15, codes >> 4], axis=2)  # (panels, columns / 8, 2, 16, 4)
        codes = codes.reshape(codes.shape[0], -1, 16, 4)
    if packed.kind is Codes.U6:
        units = codes.reshape(codes.shape[0], -1, 3, 16, 4)  # of 16 columns
        lower = np.stack([units[:, :, :2] & 15, units[:, :, :2] >> 4], axis=3).reshape(*units.shape[:2], 4, 16, 4)
        upper = np.stack([units[:, :, 2] >> 2 * k & 3 for k in range(4)], axis=2)
        codes = (lower | upper << 4).reshape(codes.shape[0], -1, 16, 4)
    by_row = rows_of(codes)
    return by_row if packed.table is None else packed.table[by_row]


def unpacked(packed: PackedMatrix) -> np.ndarray:
    """The elements, rows that fill the last panel among them."""
    codes = packed.codes
    if packed.kind in (Codes.F32, Codes.F16):
        return rows_of(codes).astype(np.float32)
    if packed.kind is Codes.BF16:
        bits = rows_of(codes)
        assert bits.shape[1] % 32 == 0
        assert not bits[:, packed.columns :].any()
        return (bits[:, : packed.columns].astype(np.uint32) << 16).view(np.float32)
    by_row = codes_of(packed)
    with np.errstate(all="ignore"):
        values = per_column(packed, scales_of(packed), factors_of(packed)) * (by_row.astype(np.float32) - packed.zero)
        if packed.row_scales is not None:
            values *= packed.row_scales.reshape(-1, 1)
        return values if packed.minima is None else values + per_column(packed, packed.minima, packed.sub_minima)


def assert_holds(packed: PackedMatrix, expected: np.ndarray) -> None:
    values = unpacked(packed)
    assert (packed.rows, packed.columns) == expected.shape
    assert len(values) == -(-packed.rows // 16) * 16
    assert_same_bits(values[: packed.rows], expected)
    assert not values[packed.rows :].any()


def arrays(packed: PackedMatrix) -> list[np.ndarray]:
    every = (packed.codes, packed.scales, packed.exponents, packed.minima, packed.sub_scales, packed.sub_minima)
    others = (packed.e4m3, packed.odd_factors, packed.row_scales)
    return [array for array in (*every, *others) if array is not None]


def test_every_scheme_is_tested() -> None:
    assert set(LAYOUTS) == set(SCHEMES)
    assert set(HALVES) == {name for name, scheme in SCHEMES.items() if not scheme.is_dense}


@each_scheme
@settings(max_examples=15)
@given(
    rows=st.integers(1, 50),
    blocks=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    widest=st.booleans(),
    threads=st.sampled_from([1, 3]),
)
def test_values_are_those_of_the_blocks(
    scheme: str, rows: int, blocks: int, seed: int, widest: bool, threads: int
) -> None:
    raw = random_rows(scheme, rows, blocks, seed, widest)
    packed = packed_by(cpu(threads), scheme, raw)
    assert_holds(packed, reference(scheme, raw))
    assert packed.nbytes == SCHEMES[scheme].panel_bytes(rows, packed.columns)


@each_scheme
@settings(max_examples=5)
@given(rows=st.integers(1, 40), first=st.integers(0, 9), blocks=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_a_cut_of_a_larger_matrix(scheme: str, rows: int, first: int, blocks: int, seed: int) -> None:
    size = SCHEMES[scheme].block_bytes
    whole = random_rows(scheme, rows + 3, 30, seed)
    whole.flags.writeable = False  # as a mapped file is
    cut = whole[2 : 2 + rows, first * size : (first + blocks) * size]
    assert_holds(packed_by(cpu(1), scheme, cut), reference(scheme, cut))


@each_scheme
def test_long_rows(scheme: str) -> None:
    raw = random_rows(scheme, 17, 1056 // SCHEMES[scheme].block_size + 1, seed=4)
    assert_holds(packed_by(cpu(2), scheme, raw), reference(scheme, raw))


@each_scheme
def test_layout(scheme: str) -> None:
    packed = packed_by(cpu(1), scheme, random_rows(scheme, 40, 8, seed=0))
    kind, zero, group, has_sub_scales, has_minima = LAYOUTS[scheme]
    assert (packed.kind, packed.zero, packed.group) == (kind, zero, group)
    assert (packed.scales is None) == (group == 1 or scheme in ("MXFP4", "NVFP4"))
    assert (packed.e4m3 is not None) == (scheme == "NVFP4")
    assert (packed.odd_factors is not None) == (scheme in ODD_FACTORS)
    rows = None if packed.row_scales is None else packed.row_scales.reshape(-1)
    assert (rows is not None) == (scheme in UNITS or scheme == "NVFP4")
    assert rows is None or ((rows[:40] == UNITS.get(scheme, 1.0)).all() and not rows[40:].any())
    assert (packed.exponents is not None) == (scheme == "MXFP4")
    assert (packed.minima is not None) == has_minima
    assert (packed.sub_scales is not None) == has_sub_scales
    assert (packed.sub_minima is not None) == (has_sub_scales and has_minima)
    for array in arrays(packed):
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if not scheme.is_dense])
def test_missing_rows_hold_zeros(name: str) -> None:
    """Codes too, where one of them is zero: what integer kernels sum of them vanishes before it is scaled."""
    packed = packed_by(cpu(1), name, random_rows(name, 3, 1, seed=1))
    if packed.table is None or packed.exponents is not None:
        assert (codes_of(packed)[3:] == packed.zero).all()
    if packed.scales is not None:
        assert not rows_of(scales_of(packed))[3:].any()


@each_scheme
@pytest.mark.parametrize(("rows", "blocks"), [(0, 2), (3, 0), (0, 0)])
def test_empty_shards(scheme: str, rows: int, blocks: int) -> None:
    """A rank may hold no heads: no rows of q, no columns of o."""
    packed = packed_by(cpu(3), scheme, random_rows(scheme, rows, blocks, seed=0))
    assert (packed.rows, packed.columns) == (rows, blocks * SCHEMES[scheme].block_size)
    assert packed.nbytes == SCHEMES[scheme].panel_bytes(rows, packed.columns) == 0


@each_scheme
@settings(max_examples=15)
@given(blocks=st.integers(0, 9), seed=st.integers(0, 2**32), widest=st.booleans())
def test_a_dequantized_row(scheme: str, blocks: int, seed: int, widest: bool) -> None:
    raw = random_rows(scheme, 1, blocks, seed, widest)
    row = np.empty(blocks * SCHEMES[scheme].block_size, np.float32)
    NATIVE.dequantize_row(scheme, raw[0], row)
    assert_same_bits(row, reference(scheme, raw)[0])


def test_every_float16() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = np.empty(1 << 16, np.float32)
    NATIVE.dequantize_row("F16", bits.view(np.uint8), numbers)
    assert_same_bits(numbers, bits.view(np.float16).astype(np.float32))


def test_half_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="whole Q4_0 blocks"):
        packed_by(cpu(1), "Q4_0", np.zeros((1, 20), np.uint8))


def test_wrong_sizes_are_refused() -> None:
    """They would corrupt memory."""
    raw, codes, scales = np.zeros((16, 34), np.uint8), np.empty(16 * 32, np.uint8), np.empty(16, np.uint16)
    NATIVE.pack("Q8_0", raw, codes, scales, None, None, None, None, None, None, cpu(1))
    for call in (
        ("Q8_0", raw, codes[1:], scales, None, None, None, None, None, None, cpu(1)),
        ("Q8_0", raw, codes, None, None, None, None, None, None, None, cpu(1)),
        ("Q8_0", raw, codes, scales, None, scales, None, None, None, None, cpu(1)),
        ("Q8_0", raw[:, 1:], codes, scales, None, None, None, None, None, None, cpu(1)),
        ("Q9_0", raw, codes, scales, None, None, None, None, None, None, cpu(1)),
    ):
        with pytest.raises(ValueError, match=r"fit|whole blocks|no blocks of Q9_0"):
            NATIVE.pack(*call)
    with pytest.raises(ValueError, match="fit"):
        NATIVE.dequantize_row("Q8_0", raw[0], np.empty(31, np.float32))


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("Q8_0", 8.5),
        ("Q4_1", 5),
        ("Q4_K", 4.625),
        ("Q6_K", 6.5625),
        ("Q3_K", 4.5625),
        ("IQ4_NL", 4.5),
        ("IQ4_XS", 4.3125),
        ("MXFP4", 4.25),
        ("NVFP4", 4.5 + 32 / 512),  # a float32 for each row
        ("IQ3_S", 4.1875),
        ("IQ3_XXS", 4.1875 + 32 / 512),
        ("IQ2_S", 4.3125 + 32 / 512),
        ("IQ2_XS", 4.3125 + 32 / 512),
        ("IQ2_XXS", 4.1875 + 32 / 512),
        ("IQ1_M", 4.3125 + 32 / 512),
        ("IQ1_S", 4.1875 + 32 / 512),
        ("TQ2_0", 4.1875),
        ("TQ1_0", 4.1875),
        ("F16", 16),
        ("BF16", 16),
    ],
)
def test_size_of_packed_weights(scheme: str, bits: float) -> None:
    assert SCHEMES[scheme].panel_bytes(32, 512) * 8 == 32 * 512 * bits
