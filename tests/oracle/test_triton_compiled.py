"""Linear in Triton, compiled for cards that are not here: what it needs, and whether it uses their matrix units."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
from kit.triton_aot import MATRIX_INSTRUCTION, SHARED_LIMIT, TARGETS, Compiled, Constant, Variant, compile_for_cards
from kit.triton_device import DEVICE  # noqa: F401 (before any kernel)

from rowspan.kernels.triton.card_family import CardFamily, CardModel
from rowspan.kernels.triton.linear.configs import Narrow, Unpacked, Wide, choose
from rowspan.kernels.triton.linear.layout import BITS, UNIT, table_bits
from rowspan.quant.scheme import SCHEMES

CARDS = {
    "sm_80": CardModel("A100", CardFamily.AMPERE, 108),
    "sm_90": CardModel("H200", CardFamily.HOPPER, 132),
    "gfx1100": CardModel("RX 7900 XTX", CardFamily.RDNA, 96),
    "gfx942": CardModel("MI300X", CardFamily.CDNA, 304),
}
ROWS, COLUMNS = 4096, 4096
ROOM = "rowspan.kernels.triton."


def variant(target: str, scheme: str, tokens: int) -> Variant:
    """The kernel that is launched there by default for so many bfloat16 activations."""
    geometry, bits = SCHEMES[scheme], BITS[scheme]
    config = choose(CARDS[target], tokens, ROWS, COLUMNS, bits, bool(geometry.table))
    types = {"x": "*bf16", "y": "*bf16", "codes": "*i32", "high": "*i32", "scales": "*fp16", "minima": "*fp16"}
    types |= {
        "sub_scales": "*i8",
        "sub_minima": "*i8",
        "tokens": "i32",
        "rows": "i32",
        "columns": "i32",
        "units": "i32",
        "one": "i32",
        "first_row": "i32",
    }
    if geometry.has_exponents:
        types["scales"] = "*u8"
    if geometry.has_e4m3:
        types["scales"] = "*i8"
    constants: dict[str, Constant] = {"BITS": bits, "UNIT": UNIT[bits], "GROUP": geometry.group}
    constants |= {"ZERO": geometry.zero, "TABLE": table_bits(geometry.table, geometry.unit), "row_scales": None}
    constants |= {"BLOCK_ROWS": getattr(config, "block_rows", 8)}
    if bits != 6:
        constants["high"] = None
    if not geometry.has_minima:
        constants["minima"] = None
    if not geometry.has_sub_scales:
        constants |= {"sub_scales": None, "sub_minima": None}
    elif not geometry.has_minima:
        constants["sub_minima"] = None
    if isinstance(config, Narrow):
        constants |= {"bias": None, "TOKENS": config.tokens, "UNITS": config.units, "STAGES": config.num_stages}
        constants |= {"BFLOAT": True, "SPLIT": config.split}
        types["x"] = "*i32"
        kernel, warps, stages = "linear.narrow:narrow_kernel", config.num_warps, config.num_stages
    elif isinstance(config, Wide):
        types["y"] = "*fp32" if config.split > 1 else "*bf16"
        constants |= {"BLOCK_TOKENS": config.block_tokens, "UNITS": config.block_columns // UNIT[bits]}
        constants |= {"bias": None, "SPLIT": config.split, "BAND": config.band, "STAGES": config.num_stages}
        kernel, warps, stages = "linear.wide:wide_kernel", config.num_warps, config.num_stages
    else:
        assert isinstance(config, Unpacked)
        constants["UNITS"] = 512 // UNIT[bits]
        kernel, warps, stages = "linear.unpacked:unpack_kernel", 4, 1
    divisible = ("rows", "columns")
    return Variant(ROOM + kernel, types, constants, divisible, warps, stages, targets=(target,))


def check_all(targets: Iterable[str], schemes: Iterable[str], numbers: Iterable[int]) -> None:
    asked = list(product(targets, schemes, numbers))
    results = compile_for_cards([variant(*each) for each in asked])
    for (target, scheme, tokens), result in zip(asked, results, strict=True):
        check(target, scheme, tokens, result[target])


def check(target: str, scheme: str, tokens: int, compiled: Compiled) -> None:
    what = f"{scheme} of {tokens} tokens on {target}"
    assert compiled.shared <= SHARED_LIMIT[target], what
    assert compiled.spilled == 0, what
    config = choose(CARDS[target], tokens, ROWS, COLUMNS, BITS[scheme], bool(SCHEMES[scheme].table))
    if isinstance(config, Wide):
        assert MATRIX_INSTRUCTION[target] in compiled.asm, what
    if isinstance(config, Narrow):
        # Threads exchange sums only (one of each row and unit, with triton 3.6), and load 16 bytes at a time.
        assert compiled.shared <= 4 * config.tokens * config.block_rows * config.units, what
        wide_load = {"s": "ld.global.v4.b32", "g": "global_load_b128" if target == "gfx1100" else "global_load_dwordx4"}
        assert wide_load[target[0]] in compiled.asm, what


def test_defaults_fit_every_card() -> None:
    check_all(TARGETS, ["Q4_K", "IQ4_NL"], [1, 16, 128])


@pytest.mark.heavy
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scheme", BITS)
def test_defaults_of_all_schemes(target: str, scheme: str) -> None:
    check_all([target], [scheme], [1, 2, 4, 16, 32, 64, 128, 256, 512])
