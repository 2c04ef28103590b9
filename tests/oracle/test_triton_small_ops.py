"""Norms, rotary embedding, cache writes and the gated activation on cards, against plain torch, over random shapes."""

from __future__ import annotations

import math
import random

import pytest
import torch
from kit.run_ops import one_token_each
from kit.triton_device import DEVICE
from torch import Tensor

from rowspan.kernels.torch.inputs import tensor_inputs
from rowspan.kernels.torch.kernels import TorchKernels
from rowspan.kernels.torch.small_ops import Angles
from rowspan.kernels.triton.gate import gated_silu
from rowspan.kernels.triton.norm import add_rms_norm, rms_norm
from rowspan.kernels.triton.rope import rope, rope_and_cache

ORACLE = TorchKernels(torch.float32, DEVICE)
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def assert_rounded(result: Tensor, exact: Tensor, ulps: float = 4.0) -> None:
    """result is the exact float32 value, rounded once to its type; a few units in the last place of float32's own
    arithmetic may tip it to the neighbour."""
    assert result.shape == exact.shape
    rounding = torch.finfo(result.dtype).eps / 2
    slack = ulps * torch.finfo(torch.float32).eps
    tiny = torch.finfo(result.dtype).smallest_normal * torch.finfo(result.dtype).eps  # what float16 goes down to
    torch.testing.assert_close(result.float(), exact.float(), rtol=rounding + slack, atol=slack + tiny)


def columns_of_wider(x: Tensor) -> Tensor:
    """The same values, as columns of a tensor that is NaN around them."""
    wider = x.new_full((x.shape[0], x.shape[1] + 48), float("nan"))
    wider[:, 16 : 16 + x.shape[1]] = x
    return wider[:, 16 : 16 + x.shape[1]]


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(DEVICE, dtype)


@pytest.fixture(autouse=True)
def poisoned_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves out shows as NaN."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(math.nan))
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(math.nan))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("tokens", "width", "stretches"), [(1, 576, 1), (5, 64, 9), (3, 80, 3), (33, 128, 2), (2, 5120, 1)]
)
def test_norms(tokens: int, width: int, stretches: int, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    x = columns_of_wider(randn(tokens, stretches * width, dtype=dtype))
    weight = randn(width) + 1
    assert_rounded(rms_norm(x, weight, 1e-5, dtype), ORACLE.rms_norm(x.float(), weight, 1e-5), ulps=8)
    assert_rounded(rms_norm(x.float(), weight, 1e-5, dtype), ORACLE.rms_norm(x.float(), weight, 1e-5), ulps=8)
    for type_of_residual in (dtype, torch.float32):
        more = columns_of_wider(randn(tokens, stretches * width, dtype=type_of_residual))
        normed, added = add_rms_norm(x, more, weight, 1e-5)
        assert torch.equal(added, x.float() + more.float())
        assert normed.dtype == dtype
        assert_rounded(normed, ORACLE.rms_norm(added, weight, 1e-5), ulps=8)


def test_a_row_of_zeros_has_a_norm() -> None:
    assert torch.equal(
        rms_norm(torch.zeros(2, 64, device=DEVICE), torch.ones(64, device=DEVICE), 1e-5, torch.float32).cpu(),
        torch.zeros(2, 64),
    )


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's; infinity is meant
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "width"), [(1, 1536), (3, 1000), (40, 16)])
def test_gated_activation(tokens: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    both = 4 * randn(tokens, 2 * width, dtype=dtype)
    gate, up = both[:, :width], both[:, width:]
    assert_rounded(gated_silu(gate, up), ORACLE.gated_silu(gate.float(), up.float()), ulps=8)
    large = torch.full((1, 4), 200.0, device=DEVICE)
    assert torch.equal(gated_silu(-large, large).cpu(), torch.zeros(1, 4))
    assert torch.equal(gated_silu(large, large).cpu(), torch.full((1, 4), 4e4))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("head_dim", "turned", "heads", "kv_heads"),
    [
        (64, 64, 9, 3),
        (80, 32, 4, 4),
        (96, 96, 5, 1),
        (112, 48, 2, 2),
        (128, 128, 32, 8),
        (256, 64, 4, 1),
        (32, 32, 1, 1),
    ],
)
def test_rope_and_cache_writes(head_dim: int, turned: int, heads: int, kv_heads: int, interleaved: bool) -> None:
    rng = random.Random(f"{head_dim} {interleaved}")
    torch.manual_seed(rng.getrandbits(32))
    dtype, cache_type = rng.choice(TYPES), rng.choice(TYPES)
    tokens, n_slots = rng.choice([1, 3, 6]), 40
    angles = torch.outer(torch.arange(100.0), torch.rand(turned // 2)).to(DEVICE)
    table = Angles(angles.cos() * 1.1, angles.sin() * 1.1, interleaved)
    positions = torch.tensor(rng.sample(range(100), tokens), dtype=torch.int32)
    slots = torch.tensor(rng.sample(range(n_slots), tokens), dtype=torch.int32)
    inputs = tensor_inputs(one_token_each(positions.to(torch.int64).numpy()), DEVICE)
    positions, slots = positions.to(DEVICE), slots.to(DEVICE)
    q, k, v = (columns_of_wider(randn(tokens, n * head_dim, dtype=dtype)) for n in (heads, kv_heads, kv_heads))

    expected_q, expected_k = (ORACLE.rope(x.float().contiguous(), table, head_dim, inputs) for x in (q, k))
    k_cache, v_cache = (
        torch.full((n_slots, kv_heads, head_dim), math.nan, dtype=cache_type, device=DEVICE) for _ in range(2)
    )
    result = rope_and_cache(q, k, v, table.cos, table.sin, interleaved, positions, slots, k_cache, v_cache, head_dim)
    assert_rounded(result, expected_q)
    plain = rope(k, table.cos, table.sin, interleaved, positions, head_dim)
    assert_rounded(plain, expected_k)

    written = slots.to(torch.int64)
    assert_rounded(k_cache[written].flatten(1), plain.float())
    assert_rounded(v_cache[written].flatten(1), v.float())
    untouched = [slot for slot in range(n_slots) if slot not in written.tolist()]
    assert all(cache[untouched].isnan().all() for cache in (k_cache, v_cache))


def test_tokens_of_negative_slots_are_not_stored() -> None:
    """Padding of captured graphs."""
    q, k, v = randn(2, 64), randn(2, 64), randn(2, 64)
    angles = torch.zeros(4, 32, device=DEVICE)
    k_cache, v_cache = (torch.full((3, 1, 64), math.nan, device=DEVICE) for _ in range(2))
    at = torch.tensor([3, 0], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([1, -1], dtype=torch.int32, device=DEVICE)
    rope_and_cache(q, k, v, angles.cos(), angles.sin(), False, at, slots, k_cache, v_cache, 64)
    for cache, x in zip((k_cache, v_cache), (k, v), strict=True):
        assert torch.equal(cache[1, 0], x[0])
        assert cache[[0, 2]].isnan().all()


@pytest.mark.parametrize("head_dim", [64, 80])
def test_int8_cache_has_a_scale_for_each_head(head_dim: int) -> None:
    torch.manual_seed(head_dim)
    q, k, v = (randn(4, 3 * head_dim) for _ in range(3))
    v[2] = 0.0
    angles = torch.zeros(4, head_dim // 2, device=DEVICE)
    k_codes, v_codes = (torch.full((9, 3, head_dim), 99, dtype=torch.int8, device=DEVICE) for _ in range(2))
    k_scales, v_scales = (torch.full((9, 3), math.nan, device=DEVICE) for _ in range(2))
    slots = torch.tensor([5, 0, 8, 2], dtype=torch.int32, device=DEVICE)
    at = torch.zeros(4, dtype=torch.int32, device=DEVICE)
    turned = (angles.cos(), angles.sin(), True)
    rope_and_cache(q, k, v, *turned, at, slots, k_codes, v_codes, head_dim, k_scales, v_scales)
    written = slots.to(torch.int64)
    for code, scale, x in ((k_codes, k_scales, k), (v_codes, v_scales, v)):
        heads = x.view(4, 3, head_dim)
        largest = heads.abs().amax(-1, keepdim=True)
        error = (code[written].float() * scale[written][..., None] - heads).abs()
        assert (error <= largest / 127 * 0.5001).all()
        assert (code[written].abs().amax(-1) == 127).logical_or(largest[..., 0] == 0).all()


@pytest.mark.parametrize("tokens", [0, 1])
def test_ranks_without_heads(tokens: int) -> None:
    nothing = randn(tokens, 0)
    cache = torch.empty(8, 0, 32, device=DEVICE)
    at = torch.zeros(tokens, dtype=torch.int32, device=DEVICE)
    angles = torch.zeros(4, 16, device=DEVICE)
    result = rope_and_cache(nothing, nothing, nothing, angles, angles, False, at, at, cache, cache, 32)
    assert result.shape == (tokens, 0)
    assert gated_silu(nothing, nothing).shape == (tokens, 0)
    assert rms_norm(nothing, torch.ones(32, device=DEVICE), 1e-5, torch.float32).shape == (tokens, 0)
