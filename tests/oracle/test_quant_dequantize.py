"""Dequantization against ggml's reference in the gguf package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rowspan.checkpoint.gguf_types import SCHEME_OF_TYPE
from rowspan.quant import dequantize as dequantize_module
from rowspan.quant.dequantize import dequantize
from rowspan.quant.scheme import GEOMETRIES, SCHEMES, UNREAD_SCHEMES, VECTOR_SCHEMES


def reference(scheme: str, raw: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[scheme]))


def random_rows(scheme: str, rows: int, blocks: int, seed: int) -> np.ndarray:
    """Random bytes are valid blocks of every scheme; some of their scales are infinite or no numbers."""
    return np.random.default_rng(seed).integers(0, 256, (rows, blocks * SCHEMES[scheme].block_bytes), np.uint8)


def assert_same_bits(actual: torch.Tensor, expected: np.ndarray) -> None:
    assert actual.dtype == torch.float32
    assert tuple(actual.shape) == expected.shape
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual.numpy()), ~numbers)
    np.testing.assert_array_equal(actual.numpy().view(np.int32)[numbers], expected.view(np.int32)[numbers])


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 40), blocks=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_random_blocks(scheme: str, rows: int, blocks: int, seed: int) -> None:
    raw = random_rows(scheme, rows, blocks, seed)
    assert_same_bits(dequantize(scheme, torch.from_numpy(raw)), reference(scheme, raw))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_more_rows_than_are_done_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantize_module, "ELEMENTS_AT_ONCE", 3 * 2 * SCHEMES[scheme].block_size)
    raw = random_rows(scheme, 10, 2, seed=0)
    assert_same_bits(dequantize(scheme, torch.from_numpy(raw)), reference(scheme, raw))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_slices_of_a_larger_tensor(scheme: str) -> None:
    raw = random_rows(scheme, 9, 6, seed=1)
    size, width = SCHEMES[scheme].block_bytes, SCHEMES[scheme].block_size
    part = torch.from_numpy(raw)[2:8, 1 * size : 4 * size]
    assert_same_bits(dequantize(scheme, part), np.ascontiguousarray(reference(scheme, raw)[2:8, width : 4 * width]))


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16])
def test_other_types_are_the_float32_values_rounded(out_dtype: torch.dtype) -> None:
    raw = torch.from_numpy(random_rows("Q6_K", 8, 2, seed=2))
    torch.testing.assert_close(
        dequantize("Q6_K", raw, out_dtype), dequantize("Q6_K", raw).to(out_dtype), rtol=0, atol=0, equal_nan=True
    )


def test_result_is_a_new_tensor() -> None:
    raw = torch.zeros(2, 16, dtype=torch.uint8)
    dequantize("F32", raw).fill_(1)
    assert not raw.any()


def test_no_rows() -> None:
    assert dequantize("Q4_K", torch.empty(0, 288, dtype=torch.uint8)).shape == (0, 512)


def test_half_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="whole Q4_0 blocks"):
        dequantize("Q4_0", torch.zeros(1, 20, dtype=torch.uint8))


def test_geometries_and_type_numbers() -> None:
    for name, scheme in SCHEMES.items():
        ggml_type = gguf.GGMLQuantizationType[name]
        assert SCHEME_OF_TYPE[ggml_type.value] == name
        assert (scheme.block_size, scheme.block_bytes) == gguf.GGML_QUANT_SIZES[ggml_type]
        assert scheme.row_bytes(scheme.block_size * 3) == scheme.block_bytes * 3
    for number, name in SCHEME_OF_TYPE.items():
        assert gguf.GGMLQuantizationType(number).name == name
    assert sorted(SCHEME_OF_TYPE.values()) == sorted(GEOMETRIES)
    assert len(GEOMETRIES) == len(SCHEMES) + len(VECTOR_SCHEMES) + len(UNREAD_SCHEMES)
