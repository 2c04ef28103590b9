"""Kernels of attention and around it, compiled for four cards that are not here: what the code needs of each."""

from __future__ import annotations

import pytest
from kit.triton_aot import MATRIX_INSTRUCTION, SHARED_LIMIT, TARGETS, Compiled, Constant, Variant, compile_for_cards

from rowspan.kernels.triton.attention.tile_sizes import Tiles, decode_tiles, prefill_tiles
from rowspan.kernels.triton.card_family import CardFamily

ATTENTION = "rowspan.kernels.triton.attention."
FAMILY = {"sm_80": CardFamily.AMPERE, "sm_90": CardFamily.HOPPER, "gfx1100": CardFamily.RDNA, "gfx942": CardFamily.CDNA}
TYPES = {"bf16": "tl.bfloat16", "fp16": "tl.float16"}
# Bytes of a thread's registers that are in memory, at most.
SPILLED = {"sm_80": 0, "sm_90": 0, "gfx1100": 64, "gfx942": 0}
SPILLED_OF_OTHER_TYPES = {"sm_80": 64, "sm_90": 0, "gfx1100": 0, "gfx942": 0}
# Operands of RDNA's matrix units lie in registers twice: 16 rows of q and 16 keys of 256 take all there are.
SPILLED_OF_256 = {"sm_80": 64, "sm_90": 0, "gfx1100": 512, "gfx942": 0}


def prefill(target: str, head_dim: int, group: int, type: str, cache: str = "", window: int = 0) -> Variant:
    tiles = prefill_tiles(FAMILY[target], head_dim, group, converted=cache == "i8")
    types = {"out": f"*{type}"} | dict.fromkeys(("n_sequences", "out_stride", "table_stride"), "i32")
    constants: dict[str, Constant] = {
        "TOKENS": tiles.rows // group,
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.keys,
        "SEARCHED": 128,
    }
    return _variant("prefill:_attend_chunks", target, tiles, types, constants, head_dim, group, type, cache, window)


def decode(target: str, head_dim: int, group: int, type: str, cache: str = "", window: int = 0) -> Variant:
    tiles = decode_tiles(FAMILY[target], head_dim, converted=cache == "i8")
    types = {"parts": "*fp32", "logs": "*fp32"} | dict.fromkeys(("table_stride", "max_pieces", "length"), "i32")
    constants: dict[str, Constant] = {"KV_HEADS": 8, "ROWS": 16, "BLOCK_N": tiles.keys}
    return _variant("decode:_attend_pieces", target, tiles, types, constants, head_dim, group, type, cache, window)


def _variant(
    kernel: str,
    target: str,
    tiles: Tiles,
    types: dict[str, str],
    constants: dict[str, Constant],
    head_dim: int,
    group: int,
    type: str,
    cache: str,
    window: int,
) -> Variant:
    """What decode and prefill have in common. cache: its type, if it is not that of q."""
    strides = ("out_stride", "q_stride", "slot_stride", "head_stride")
    types |= dict.fromkeys((*strides[1:], "scale_stride"), "i32") | {"scale": "fp32", "q": f"*{type}"}
    types |= dict.fromkeys(("k", "v"), f"*{cache or type}")
    types |= dict.fromkeys(("block_table", "starts", "positions"), "*i32")
    if cache == "i8":
        types |= dict.fromkeys(("k_scales", "v_scales"), "*fp32")
    else:
        constants |= dict.fromkeys(("k_scales", "v_scales"))
    constants |= {
        "GROUP": group,
        "D": head_dim,
        "D_PAD": 1 << (head_dim - 1).bit_length(),
        "VALUE_PARTS": tiles.value_parts,
        "BLOCK_SIZE": 16,
        "WINDOW": window,
        "MATRIX": TYPES.get(cache, TYPES[type]),
    }
    return Variant(ATTENTION + kernel, types, constants, (*strides, "length"), tiles.warps, tiles.stages, (target,))


def compile_each(variants: list[Variant]) -> list[tuple[str, Compiled]]:
    return [next(iter(result.items())) for result in compile_for_cards(variants)]


def check(target: str, code: Compiled, spilled: dict[str, int], matrix_instruction: str) -> None:
    assert code.shared <= SHARED_LIMIT[target]
    assert code.spilled <= spilled[target]
    assert matrix_instruction in code.asm


def of_16_rows(target: str) -> str:
    """wgmma takes 64 rows at least: products of 16 are mma.sync's on sm_90, too."""
    return "mma.sync" if target == "sm_90" else MATRIX_INSTRUCTION[target]


def test_attention_of_common_models() -> None:
    """Llama-3 8B's heads. Of decode's shared memory half at most, so that two programs run beside one another."""
    makes = [(prefill, target) for target in TARGETS] + [(decode, target) for target in ("sm_90", "gfx942")]
    results = compile_each([make(target, 128, 4, "bf16") for make, target in makes])
    for (make, _), (target, code) in zip(makes, results, strict=True):
        check(target, code, SPILLED, MATRIX_INSTRUCTION[target] if make is prefill else of_16_rows(target))
        assert make is prefill or code.shared <= SHARED_LIMIT[target] // 2


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("head_dim", "group", "type", "cache", "window"),
    [
        (64, 3, "bf16", "", 0),
        (128, 4, "bf16", "", 0),
        (80, 1, "fp16", "", 0),
        (96, 4, "bf16", "fp16", 0),
        (128, 8, "bf16", "", 4096),
        (128, 4, "fp16", "i8", 0),
        (256, 2, "bf16", "", 0),
    ],
)
def test_attention_of_more_models(head_dim: int, group: int, type: str, cache: str, window: int) -> None:
    spilled = SPILLED_OF_256 if head_dim > 128 else SPILLED_OF_OTHER_TYPES if cache else SPILLED
    for make in (prefill, decode):
        variants = [make(target, head_dim, group, type, cache, window) for target in TARGETS]
        for target, code in compile_each(variants):
            matrix = MATRIX_INSTRUCTION[target] if make is prefill else of_16_rows(target)
            check(target, code, spilled, matrix)


def test_small_kernels() -> None:
    module = "rowspan.kernels.triton."
    strides = dict.fromkeys(("x_stride", "residual_stride", "out_stride", "n_stretches"), "i32")
    norm = Variant(
        module + "norm:_normalize",
        dict.fromkeys(("x", "out"), "*bf16")
        | dict.fromkeys(("residual", "added", "weight"), "*fp32")
        | {"eps": "fp32"}
        | strides,
        {"PER_TOKEN": 1, "WIDTH": 4096, "PADDED": 4096, "TOGETHER": 1},
        tuple(strides),
        num_warps=8,
    )
    gate = Variant(
        module + "gate:_gated_silu",
        dict.fromkeys(("out", "gate", "up"), "*bf16") | dict.fromkeys(("width", "gate_stride", "up_stride"), "i32"),
        {"BLOCK": 1024},
        ("width", "gate_stride", "up_stride"),
    )
    numbers = ("q_heads", "kv_heads", "q_programs", "kv_programs")
    strides = dict.fromkeys(
        ("q_stride", "k_stride", "v_stride", "k_slot_stride", "k_head_stride", "v_slot_stride", "v_head_stride"), "i32"
    )
    rope = Variant(
        module + "rope:_rotate",
        dict.fromkeys(("out", "q", "k", "v"), "*bf16")
        | dict.fromkeys(("cos", "sin", "k_scales", "v_scales"), "*fp32")
        | dict.fromkeys(("positions", "slots"), "*i32")
        | dict.fromkeys(("k_cache", "v_cache"), "*i8")
        | dict.fromkeys(numbers, "i32")
        | strides,
        {"INTERLEAVED": False, "HALF": 64, "D": 128, "D_PAD": 128, "TOGETHER": 8},
        tuple(strides),
        num_warps=2,
    )
    pieces = Variant(
        ATTENTION + "decode:_add_pieces",
        {"out": "*bf16", "parts": "*fp32", "logs": "*fp32", "starts": "*i32", "positions": "*i32"}
        | dict.fromkeys(("out_stride", "max_pieces", "length"), "i32"),
        {"D": 128, "D_PAD": 128, "WINDOW": 0, "MERGED": 32},
        ("out_stride", "length"),
    )
    keys = Variant(
        module + "sampling.choose_tokens:_rank_keys",
        {"keys": "*i64", "logits": "*fp32", "vocabulary": "i32", "stride": "i32"},
        {"TOKEN_BITS": 20, "BLOCK": 1024},
        ("vocabulary", "stride"),
    )
    parts = Variant(
        module + "linear.parts:add_parts_kernel",
        {"parts": "*fp32", "bias": "*bf16", "y": "*bf16", "numbers": "i32", "rows": "i32"},
        {"SPLIT": 4, "BLOCK": 1024},
        ("numbers", "rows"),
    )
    logits = Variant(
        parts.kernel,
        {"parts": "*fp32", "y": "*fp32", "numbers": "i32", "rows": "i32"},
        {**parts.constants, "bias": None},
        parts.divisible,
    )
    for result in compile_for_cards([norm, gate, rope, pieces, keys, parts, logits]):
        for code in result.values():
            assert code.spilled == 0
            assert code.shared <= 16 << 10
