"""Grouped and packed weights against ggml's reference in the gguf package: the same values, in another order."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.quant import dequantize as dequantize_module
from rowspan.quant.dequantize import DENSE, QUANTIZED
from rowspan.quant.groups import Groups, grouped, ungroup
from rowspan.quant.panels import PackedPanels, panels, unpack_panels
from rowspan.quant.scheme import SCHEMES

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
}
# What the kernels count on: columns of a group, whether two codes share a byte, whether there are minima.
LAYOUTS = {
    "Q8_0": (32, False, False),
    "Q4_0": (32, True, True),
    "Q4_1": (32, True, True),
    "Q5_0": (32, False, False),
    "Q5_1": (32, False, True),
    "Q2_K": (16, True, True),
    "Q3_K": (16, False, False),
    "Q4_K": (32, True, True),
    "Q5_K": (32, False, True),
    "Q6_K": (16, False, False),
}
each_scheme = pytest.mark.parametrize("scheme", LAYOUTS)


def finite_rows(scheme: str, rows: int, blocks: int, seed: int, widest: bool = False) -> np.ndarray:
    """Random blocks without infinities; `widest`: float16 numbers at the ends of their range."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, blocks, SCHEMES[scheme].block_bytes), np.uint8)
    for start in HALVES[scheme]:
        bits = raw[..., start : start + 2].copy().view(np.uint16)
        if widest:
            bits = (rng.choice([0x0001, 0x03FF, 0x07FF, 0x3BFF, 0x7BFF], bits.shape) | bits & 0x8000).astype(np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] &= 0xFBFF
        raw[..., start : start + 2] = bits.view(np.uint8)
    return raw.reshape(rows, -1)


def taken_apart(scheme: str, raw: np.ndarray) -> Groups:
    groups = grouped(scheme, torch.from_numpy(raw))
    assert groups is not None
    return groups


def assert_same_values(actual: torch.Tensor, expected: np.ndarray) -> None:
    """Every float32 the same, -0 and 0 being so too."""
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(actual.numpy(), expected)


def reference(scheme: str, raw: np.ndarray) -> np.ndarray:
    return np.asarray(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[scheme]))


def assert_same_groups(actual: Groups, expected: Groups) -> None:
    assert (actual.group, actual.four_bit) == (expected.group, expected.four_bit)
    for a, b in ((actual.codes, expected.codes), (actual.scales, expected.scales), (actual.minima, expected.minima)):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def test_every_quantized_scheme_is_tested() -> None:
    assert set(LAYOUTS) == set(HALVES) == set(QUANTIZED)
    assert set(QUANTIZED) | set(DENSE) == set(SCHEMES)


@each_scheme
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 20), blocks=st.integers(1, 5), seed=st.integers(0, 2**32), widest=st.booleans())
def test_values_are_the_reference_s(scheme: str, rows: int, blocks: int, seed: int, widest: bool) -> None:
    raw = finite_rows(scheme, rows, blocks, seed, widest)
    groups = taken_apart(scheme, raw)
    assert_same_values(ungroup(groups), reference(scheme, raw))

    scales = groups.scales.repeat_interleave(groups.group, dim=1)
    products = groups.codes.float() * scales
    # float64 holds these products exactly. If float32 does as well, a fused multiply-add rounds as mul and add do.
    assert torch.equal(products.double(), groups.codes.double() * scales.double())
    minima = 0.0 if groups.minima is None else groups.minima.repeat_interleave(groups.group, dim=1)
    assert_same_values(products + minima, reference(scheme, raw))


@each_scheme
def test_layout(scheme: str) -> None:
    groups = taken_apart(scheme, finite_rows(scheme, 40, 3, seed=0))
    group, four_bit, has_minima = LAYOUTS[scheme]
    columns = 3 * SCHEMES[scheme].block_size
    assert (groups.group, groups.four_bit, groups.minima is not None) == (group, four_bit, has_minima)
    assert groups.codes.dtype == torch.int8
    assert groups.codes.shape == (40, columns)
    for numbers in (groups.scales, groups.minima):
        if numbers is not None:
            assert numbers.dtype == torch.float32
            assert numbers.shape == (40, columns // group)
    if four_bit:
        assert groups.codes.min() >= 0
        assert groups.codes.max() <= 15


@each_scheme
def test_more_rows_than_are_done_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantize_module, "ELEMENTS_AT_ONCE", 3 * 2 * SCHEMES[scheme].block_size)
    raw = finite_rows(scheme, 10, 2, seed=1)
    assert_same_values(ungroup(taken_apart(scheme, raw)), reference(scheme, raw))


@each_scheme
def test_slices_of_a_larger_tensor(scheme: str) -> None:
    raw = finite_rows(scheme, 9, 6, seed=2)
    size, width = SCHEMES[scheme].block_bytes, SCHEMES[scheme].block_size
    groups = grouped(scheme, torch.from_numpy(raw)[2:8, 1 * size : 4 * size])
    assert groups is not None
    assert_same_values(ungroup(groups), reference(scheme, raw)[2:8, width : 4 * width])


@each_scheme
def test_source_is_left_alone(scheme: str) -> None:
    raw = finite_rows(scheme, 2, 1, seed=3)
    before = raw.copy()
    groups = taken_apart(scheme, raw)
    groups.codes.fill_(1)
    groups.scales.fill_(1)
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize("scheme", DENSE)
def test_dense_schemes_stay_dense(scheme: str) -> None:
    assert grouped(scheme, torch.zeros(1, 8, dtype=torch.uint8)) is None


def test_half_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="whole Q4_0 blocks"):
        grouped("Q4_0", torch.zeros(1, 20, dtype=torch.uint8))


@each_scheme
@pytest.mark.parametrize(("rows", "blocks"), [(0, 2), (3, 0), (0, 0)])
def test_empty_shards(scheme: str, rows: int, blocks: int) -> None:
    """A rank may hold no heads: no rows of q, no columns of o."""
    groups = taken_apart(scheme, np.empty((rows, blocks * SCHEMES[scheme].block_bytes), np.uint8))
    assert ungroup(groups).shape == (rows, blocks * SCHEMES[scheme].block_size)
    packed = panels(groups)
    assert packed.nbytes == 0
    assert_same_groups(unpack_panels(packed), groups)


@each_scheme
@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 50), blocks=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_panels_hold_what_the_kernels_look_up(scheme: str, rows: int, blocks: int, seed: int) -> None:
    groups = taken_apart(scheme, finite_rows(scheme, rows, blocks, seed))
    packed = panels(groups)
    n_panels, columns = -(-rows // 16), groups.codes.shape[1]
    assert (packed.rows, packed.columns, packed.group) == (rows, columns, groups.group)
    assert packed.codes.shape == (n_panels, columns // 2 if packed.four_bit else columns, 16)
    assert packed.codes.dtype == (torch.uint8 if packed.four_bit else torch.int8)

    for row, column in np.random.default_rng(seed).integers(0, (n_panels * 16, columns), (50, 2)).tolist():
        inside = row < rows
        assert code_at(packed, row, column) == (groups.codes[row, column] if inside else 0)
        for numbers, source in ((packed.scales, groups.scales), (packed.minima, groups.minima)):
            if numbers is not None and source is not None:
                place = column // groups.group
                assert numbers.is_contiguous()
                assert numbers.shape == (n_panels, columns // groups.group, 16)
                assert numbers[row // 16, place, row % 16] == (source[row, place] if inside else 0)
    assert_same_groups(unpack_panels(packed), groups)


def code_at(packed: PackedPanels, row: int, column: int) -> int:
    """As native/kernels.hpp describes it: by its address from the first byte on."""
    assert packed.codes.is_contiguous()
    memory, panel, lane = packed.codes.flatten(), row // 16, row % 16
    if not packed.four_bit:
        return int(memory[(panel * packed.columns + column) * 16 + lane])
    byte = int(memory[(panel * (packed.columns // 2) + column // 2) * 16 + lane])
    return byte >> 4 if column % 2 else byte & 15


@pytest.mark.parametrize(("scheme", "bits"), [("Q8_0", 8 + 1), ("Q4_1", 4 + 2), ("Q6_K", 8 + 2)])
def test_size_of_packed_weights(scheme: str, bits: int) -> None:
    packed = panels(taken_apart(scheme, finite_rows(scheme, 32, 2, seed=4)))
    assert packed.nbytes * 8 == packed.rows * packed.columns * bits
