"""Kernels of attention and around it, compiled for four cards that are not here: what the code needs of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from kit.triton_aot import MATRIX_INSTRUCTION, SHARED_LIMIT, TARGETS, Compiled, Constant, Variant, compile_for_cards

from rowspan.kernels.triton.attention.tile_sizes import Tiles, decode_tiles, prefill_tiles
from rowspan.kernels.triton.card_family import CardFamily
from rowspan.model.spec import Activation

ATTENTION = "rowspan.kernels.triton.attention."
FAMILY = {"sm_80": CardFamily.AMPERE, "sm_90": CardFamily.HOPPER, "gfx1100": CardFamily.RDNA, "gfx942": CardFamily.CDNA}
STRIDES = ("out_stride", "q_stride", "gate_stride", "k_slot_stride", "k_head_stride", "v_slot_stride", "v_head_stride")
SCALES = dict.fromkeys(("k_scales", "v_scales"), "*fp32")
TYPES = {"bf16": "tl.bfloat16", "fp16": "tl.float16"}
# Bytes of a thread's registers that are in memory, at most.
SPILLED = {"sm_80": 0, "sm_90": 0, "gfx1100": 64, "gfx942": 0}
SPILLED_OF_OTHER_TYPES = {"sm_80": 64, "sm_90": 0, "gfx1100": 0, "gfx942": 0}
# Operands of RDNA's matrix units lie in registers twice: 16 rows of q and 16 keys of 256 take all there are.
SPILLED_OF_256 = {"sm_80": 64, "sm_90": 0, "gfx1100": 512, "gfx942": 0}
SPILLED_OF_WIDE_OPTIONS = {"sm_80": 64, "sm_90": 64, "gfx1100": 576, "gfx942": 0}
# Integers are held as floats, too.
SPILLED_OF_WIDE_INT8 = {"sm_80": 64, "sm_90": 64, "gfx1100": 1280, "gfx942": 0}
# RDNA computes these slowly, but computes them.
SPILLED_OF_512 = {"sm_80": 0, "sm_90": 0, "gfx1100": 1536, "gfx942": 0}


@dataclass(frozen=True)
class Shape:
    """What a model's attention is compiled for."""

    head_size: int
    group: int
    type: str = "bf16"
    cache: str = ""  # its type, if it is not that of q
    window: int = 0
    value_size: int = 0  # 0: that of keys
    soft_cap: float | None = None
    has_sinks: bool = False
    has_gate: bool = False

    @property
    def widest(self) -> int:
        return max(self.head_size, self.value_size)

    @property
    def has_options(self) -> bool:
        return bool(self.soft_cap or self.has_sinks or self.has_gate)

    def constants(self, tiles: Tiles) -> dict[str, Constant]:
        """Those that decode and prefill have in common."""
        value_size = self.value_size or self.head_size
        return {
            "GROUP": self.group,
            "K": self.head_size,
            "K_PAD": power_of_two(self.head_size),
            "V": value_size,
            "V_PAD": power_of_two(value_size) // tiles.value_parts,
            "VALUE_PARTS": tiles.value_parts,
            "BLOCK_SIZE": 16,
            "WINDOW": self.window,
            "SOFT_CAP": self.soft_cap,
            "BLOCK_N": tiles.keys,
            "MATRIX": TYPES.get(self.cache, TYPES[self.type]),
            **({} if self.cache == "i8" else dict.fromkeys(("k_scales", "v_scales"))),
        }

    def types(self) -> dict[str, str]:
        types = dict.fromkeys((*STRIDES, "scale_stride", "table_stride"), "i32") | {"scale": "fp32"}
        types |= {"q": f"*{self.type}"} | dict.fromkeys(("k", "v"), f"*{self.cache or self.type}")
        return types | dict.fromkeys(("block_table", "starts", "positions"), "*i32") | SCALES


def prefill(target: str, shape: Shape) -> Variant:
    tiles = prefill_tiles(FAMILY[target], shape.widest, shape.group, converted=shape.cache == "i8")
    given = {"sinks": shape.has_sinks, "gate": shape.has_gate}
    types = shape.types() | {"out": f"*{shape.type}", "n_sequences": "i32"}
    types |= {name: f"*{shape.type}" for name, is_given in given.items() if is_given}
    constants = shape.constants(tiles) | {name: None for name, is_given in given.items() if not is_given}
    constants |= {"TOKENS": tiles.rows // shape.group, "BLOCK_M": tiles.rows, "SEARCHED": 128}
    return _variant("prefill:_attend_chunks", target, tiles, types, constants)


def decode(target: str, shape: Shape) -> Variant:
    tiles = decode_tiles(FAMILY[target], shape.widest, converted=shape.cache == "i8")
    types = shape.types() | {"parts": "*fp32", "logs": "*fp32"} | dict.fromkeys(("max_pieces", "length"), "i32")
    constants = shape.constants(tiles) | {"KV_HEADS": 8, "ROWS": 16}
    return _variant("decode:_attend_pieces", target, tiles, types, constants)


def _variant(kernel: str, target: str, tiles: Tiles, types: dict[str, str], constants: dict[str, Constant]) -> Variant:
    return Variant(ATTENTION + kernel, types, constants, (*STRIDES, "length"), tiles.warps, tiles.stages, (target,))


def power_of_two(number: int) -> int:
    """The next one."""
    return 1 << (number - 1).bit_length()


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
    results = compile_each([make(target, Shape(128, 4)) for make, target in makes])
    for (make, _), (target, code) in zip(makes, results, strict=True):
        check(target, code, SPILLED, MATRIX_INSTRUCTION[target] if make is prefill else of_16_rows(target))
        assert make is prefill or code.shared <= SHARED_LIMIT[target] // 2


@pytest.mark.heavy
@pytest.mark.parametrize(
    "shape",
    [
        Shape(64, 3),
        Shape(128, 4),
        Shape(80, 1, "fp16"),
        Shape(96, 4, cache="fp16"),
        Shape(128, 8, window=4096),
        Shape(128, 4, "fp16", "i8"),
        Shape(256, 2),
        Shape(64, 8, window=128, has_sinks=True),  # as gpt-oss has it
        Shape(256, 2, window=4096, soft_cap=72.0),  # Gemma 2
        Shape(256, 8, has_gate=True),  # Qwen3-Next
        Shape(128, 8, has_gate=True, has_sinks=True, soft_cap=72.0),
        Shape(192, 8, value_size=128),  # MiMo
        Shape(64, 4, value_size=128),
        Shape(192, 4, cache="i8", window=128, value_size=128, soft_cap=72.0, has_sinks=True, has_gate=True),
        Shape(512, 2),
        Shape(512, 8, window=1024),
        Shape(512, 2, "fp16", "i8"),
    ],
)
def test_attention_of_more_models(shape: Shape) -> None:
    spilled = SPILLED_OF_256 if shape.widest > 128 else SPILLED_OF_OTHER_TYPES if shape.cache else SPILLED
    if shape.widest > 256:
        spilled = SPILLED_OF_512 | ({"sm_90": 448} if shape.cache == "i8" else {})
    elif shape.widest > 128 and shape.cache:
        spilled = SPILLED_OF_WIDE_INT8
    elif shape.widest > 128 and shape.has_options:
        spilled = SPILLED_OF_WIDE_OPTIONS
    for make in (prefill, decode):
        for target, code in compile_each([make(target, shape) for target in TARGETS]):
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
    ways: list[tuple[Activation, dict[str, Constant]]] = [(each, {}) for each in Activation]
    ways.append((Activation.RELU2, {"up": None}))
    activations = [
        Variant(
            module + "activation:_activate",
            dict.fromkeys(("out", "gate", "up"), "*bf16") | dict.fromkeys(("width", "gate_stride", "up_stride"), "i32"),
            {"ACTIVATION": activation.value, "BLOCK": 1024} | alone,
            ("width", "gate_stride", "up_stride"),
        )
        for activation, alone in ways
    ]
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
        {"INTERLEAVED": False, "HALF": 64, "K": 128, "K_PAD": 128, "V": 128, "V_PAD": 128, "TOGETHER": 8},
        tuple(strides),
        num_warps=2,
    )
    store = replace(
        rope,
        constants={**rope.constants, "cos": None, "sin": None, "HALF": 0, "K": 192, "K_PAD": 256, "TOGETHER": 4},
    )
    pieces = Variant(
        ATTENTION + "decode:_add_pieces",
        {"out": "*bf16", "parts": "*fp32", "logs": "*fp32", "starts": "*i32", "positions": "*i32"}
        | dict.fromkeys(("out_stride", "gate_stride", "max_pieces", "length"), "i32")
        | dict.fromkeys(("sinks", "gate"), "*bf16"),
        {"sinks": None, "gate": None, "V": 128, "V_PAD": 128, "WINDOW": 0, "MERGED": 32},
        ("out_stride", "gate_stride", "length"),
    )
    pieces_with_all = replace(pieces, constants={"V": 512, "V_PAD": 512, "WINDOW": 128, "MERGED": 32})
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
    for result in compile_for_cards([norm, *activations, rope, store, pieces, pieces_with_all, keys, parts, logits]):
        for code in result.values():
            assert code.spilled == 0
            assert code.shared <= 16 << 10
