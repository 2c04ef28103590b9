"""Norms, rotary embedding, cache writes and activations on cards, against plain torch, over random shapes."""

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
from rowspan.kernels.torch.kv_cache import Cache
from rowspan.kernels.torch.small_ops import Angles
from rowspan.kernels.triton.activation import activate, gated
from rowspan.kernels.triton.norm import add_rms_norm, rms_norm
from rowspan.kernels.triton.rope import rope_and_cache
from rowspan.model.spec import Activation

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
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "width"), [(1, 1536), (3, 1000), (40, 16)])
def test_activations(tokens: int, width: int, dtype: torch.dtype, activation: Activation) -> None:
    torch.manual_seed(tokens)
    both = 4 * randn(tokens, 2 * width, dtype=dtype)
    gate, up = both[:, :width], both[:, width:]
    expected = in_float64(activation, gate, up)
    assert_rounded(gated(gate, up, activation), expected, ulps=16)
    assert_rounded(ORACLE.gated(gate.float(), up.float(), activation), expected, ulps=16)
    if activation is Activation.CLAMPED_SWIGLU:
        for alone in (activate, ORACLE.activate):
            with pytest.raises(ValueError, match="needs a gate"):
                alone(gate, activation)
    else:
        expected = in_float64(activation, gate, torch.ones_like(up))
        assert_rounded(activate(gate, activation), expected, ulps=16)
        assert_rounded(ORACLE.activate(gate.float(), activation), expected, ulps=16)


def in_float64(activation: Activation, gate: Tensor, up: Tensor) -> Tensor:
    """As papers write it; to be compared in float32."""
    g, u = gate.double(), up.double()
    if activation is Activation.CLAMPED_SWIGLU:
        g, u = g.clamp(max=7.0), u.clamp(-7.0, 7.0) + 1
    as_written: dict[Activation, Tensor] = {
        Activation.SILU: g * torch.sigmoid(g),
        Activation.GELU: g / 2 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (g + 0.044715 * g**3))),
        Activation.GELU_ERF: g / 2 * torch.special.erfc(-g / math.sqrt(2)),
        Activation.RELU2: torch.where(g > 0, g**2, 0.0),
        Activation.CLAMPED_SWIGLU: g * torch.sigmoid(1.702 * g),
    }
    return (as_written[activation] * u).float()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's; infinity is meant
def test_activations_of_large_numbers() -> None:
    large = torch.full((1, 4), 200.0, device=DEVICE)
    for activation, up, most in (
        (Activation.SILU, 200.0, 4e4),
        (Activation.GELU, 200.0, 4e4),
        (Activation.RELU2, 200.0, 8e6),
        (Activation.CLAMPED_SWIGLU, 8.0, 56.0),
    ):
        assert torch.equal(gated(-large, large, activation).cpu() * up, torch.zeros(1, 4))
        torch.testing.assert_close(gated(large, large, activation).cpu(), torch.full((1, 4), most), rtol=1e-5, atol=0)


def test_soft_caps_and_factors() -> None:
    torch.manual_seed(0)
    x = 40 * randn(5, 99)
    expected = (30 * torch.tanh(x.double() / 30)).float()
    assert_rounded(ORACLE.soft_cap(x, 30.0), expected)
    assert torch.equal(ORACLE.scale(x, 0.22), x * 0.22)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("head_dim", "value_size", "turned", "heads", "kv_heads"),
    [
        (64, 64, 64, 9, 3),
        (80, 80, 32, 4, 4),
        (96, 96, 96, 5, 1),
        (112, 112, 48, 2, 2),
        (128, 128, 128, 32, 8),
        (256, 256, 64, 4, 1),
        (32, 32, 32, 1, 1),
        (192, 128, 64, 4, 2),
        (64, 96, 64, 3, 3),
        (512, 512, 128, 2, 1),
    ],
)
def test_rope_and_cache_writes(
    head_dim: int, value_size: int, turned: int, heads: int, kv_heads: int, interleaved: bool
) -> None:
    rng = random.Random(f"{head_dim} {value_size} {interleaved}")
    torch.manual_seed(rng.getrandbits(32))
    dtype, cache_type = rng.choice(TYPES), rng.choice(TYPES)
    tokens, n_slots = rng.choice([1, 3, 6]), 40
    angles = torch.outer(torch.arange(100.0), torch.rand(turned // 2)).to(DEVICE)
    table = Angles(angles.cos() * 1.1, angles.sin() * 1.1, interleaved)
    positions = torch.tensor(rng.sample(range(100), tokens), dtype=torch.int32)
    slots = torch.tensor(rng.sample(range(n_slots), tokens), dtype=torch.int32)
    inputs = tensor_inputs(one_token_each(positions.to(torch.int64).numpy()), DEVICE)
    positions, slots = positions.to(DEVICE), slots.to(DEVICE)
    widths = (heads * head_dim, kv_heads * head_dim, kv_heads * value_size)
    q, k, v = (columns_of_wider(randn(tokens, width, dtype=dtype)) for width in widths)

    expected_q, expected_k = (ORACLE.rope(x.float().contiguous(), table, head_dim, inputs) for x in (q, k))
    for angles_of in (table, None):
        cache = Cache(
            *(
                torch.full((n_slots, kv_heads, size), math.nan, dtype=cache_type, device=DEVICE)
                for size in (head_dim, value_size)
            )
        )
        result = rope_and_cache(q, k, v, angles_of, positions, slots, cache)
        if angles_of is None:
            assert result is q
            plain = k
        else:
            assert_rounded(result, expected_q)
            plain = rope_and_cache(k, k, v, angles_of, positions, slots, cache)  # k as it goes into the cache
            assert_rounded(plain, expected_k)

        written = slots.to(torch.int64)
        assert_rounded(cache.k[written].flatten(1), plain.float())
        assert_rounded(cache.v[written].flatten(1), v.float())
        untouched = [slot for slot in range(n_slots) if slot not in written.tolist()]
        assert all(side[untouched].isnan().all() for side in (cache.k, cache.v))


def test_tokens_of_negative_slots_are_not_stored() -> None:
    """Padding of captured graphs."""
    q, k, v = randn(2, 64), randn(2, 64), randn(2, 64)
    angles = torch.zeros(4, 32, device=DEVICE)
    k_cache, v_cache = (torch.full((3, 1, 64), math.nan, device=DEVICE) for _ in range(2))
    at = torch.tensor([3, 0], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([1, -1], dtype=torch.int32, device=DEVICE)
    rope_and_cache(q, k, v, Angles(angles.cos(), angles.sin(), False), at, slots, Cache(k_cache, v_cache))
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
    cache = Cache(k_codes, v_codes, k_scales, v_scales)
    rope_and_cache(q, k, v, Angles(angles.cos(), angles.sin(), True), at, slots, cache)
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
    table = Angles(angles, angles, False)
    result = rope_and_cache(nothing, nothing, nothing, table, at, at, Cache(cache, cache))
    assert result.shape == (tokens, 0)
    assert gated(nothing, nothing, Activation.SILU).shape == (tokens, 0)
    assert activate(nothing, Activation.RELU2).shape == (tokens, 0)
    assert rms_norm(nothing, torch.ones(32, device=DEVICE), 1e-5, torch.float32).shape == (tokens, 0)
