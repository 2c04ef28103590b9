"""What takes a step from one to the next without the host, compiled for four cards that are not here."""

from __future__ import annotations

from kit.triton_aot import Variant, compile_for_cards
from kit.triton_device import DEVICE  # noqa: F401 (before any kernel)

from rowspan.kernels.triton.inputs import TAKE_BLOCK
from rowspan.kernels.triton.sampling.draw import BLOCK, DIGITS, TOKEN_BITS

ROOM = "rowspan.kernels.triton."
NUMBERS = ("temperatures", "top_ps", "min_logits", "uniforms")


def test_tokens_are_taken_and_drawn_without_spilling() -> None:
    take = Variant(
        ROOM + "inputs:_take_chosen", {"tokens": "*i32", "chosen": "*i32", "n": "i32"}, {"BLOCK": TAKE_BLOCK}
    )
    draw = Variant(
        ROOM + "sampling.draw:_draw",
        {"tokens": "*i64", "logits": "*fp32", "vocabulary": "i32", "stride": "i32"} | dict.fromkeys(NUMBERS, "*fp64"),
        {"TOKEN_BITS": TOKEN_BITS, "DIGITS": DIGITS, "BLOCK": BLOCK},
        ("vocabulary", "stride"),
        num_warps=8,
    )
    for result in compile_for_cards([take, draw]):
        for code in result.values():
            assert code.spilled == 0
            assert code.shared <= 16 << 10
