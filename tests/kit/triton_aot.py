"""Compiles Triton kernels for cards that are not here, and tells what came of it.

A process in which kernels run in Triton's interpreter cannot compile them: the decorator decides at import. So this
file is also a program, without TRITON_INTERPRET, that reads variants and writes what they became, both as JSON:

    results = compile_for_cards([Variant("rowspan.kernels.triton.gate:gate_kernel", {"x": "*bf16", "n": "i32"}, …)])
    assert results[0]["gfx1100"].shared <= 64 << 10
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Constant = int | float | bool | str | None

# What triton calls each card: backend, architecture, lanes of a warp.
TARGETS: Mapping[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "gfx1100": ("hip", "gfx1100", 32),
    "gfx942": ("hip", "gfx942", 64),
}
# Bytes of shared memory that one program may have. sm_80's is that of consumer cards (86, 89); A100 has 163 KiB.
SHARED_LIMIT: Mapping[str, int] = {"sm_80": 99 << 10, "sm_90": 227 << 10, "gfx1100": 64 << 10, "gfx942": 64 << 10}
# Instructions of the matrix units, as they are written in `Compiled.asm`.
MATRIX_INSTRUCTION: Mapping[str, str] = {
    "sm_80": "mma.sync",
    "sm_90": "wgmma.mma_async",
    "gfx1100": "v_wmma",
    "gfx942": "v_mfma",
}


@dataclass(frozen=True)
class Variant:
    """One way to compile one kernel.

    Attributes:
        kernel: "module:function".
        types: of the arguments that are not constants, as triton writes them: "*bf16", "i32". Pointers are taken to be
            aligned to 16 bytes, as torch's are.
        constants: of constexpr arguments, and None for optional pointers that are not given. Strings like "tl.float16"
            are looked up in triton.language.
        divisible: integer arguments that are multiples of 16. Triton finds that out by itself at run time.
        targets: keys of TARGETS.
    """

    kernel: str
    types: Mapping[str, str]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    divisible: Sequence[str] = ()
    num_warps: int = 4
    num_stages: int = 2
    targets: Sequence[str] = tuple(TARGETS)


@dataclass(frozen=True)
class Compiled:
    """What came of one variant on one target.

    Attributes:
        shared: bytes of shared memory (LDS).
        registers: of one thread; of vectors, on AMD.
        spilled: bytes of one thread that did not fit into registers.
        asm: PTX or AMD's assembly.
        ttgir: Triton's own representation, with layouts.
    """

    shared: int
    registers: int
    spilled: int
    asm: str
    ttgir: str


def compile_for_cards(variants: Sequence[Variant]) -> list[dict[str, Compiled]]:
    """Compile every variant for each of its targets, in a process of its own: 1 to 2 s each, unless triton has them in
    its cache from before.

    Raises:
        RuntimeError: one cannot be compiled; the compiler's words are in it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([asdict(variant) for variant in variants]),
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return [{target: Compiled(**facts) for target, facts in each.items()} for each in json.loads(done.stdout)]


def _compile(variant: Variant, target: str) -> Compiled:
    """In a process without TRITON_INTERPRET."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = variant.kernel.split(":")
    kernel = getattr(importlib.import_module(module), name)
    constants = {
        argument: getattr(tl, value[3:]) if isinstance(value, str) and value.startswith("tl.") else value
        for argument, value in variant.constants.items()
    }
    signature = {name: "constexpr" if name in constants else variant.types[name] for name in kernel.arg_names}
    aligned = [
        place for place, (name, kind) in enumerate(signature.items()) if kind[0] == "*" or name in variant.divisible
    ]
    attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget(*TARGETS[target]),
        options={"num_warps": variant.num_warps, "num_stages": variant.num_stages},
    )
    usage = _usage_on_nvidia if "cubin" in compiled.asm else _usage_on_amd
    asm = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
    return Compiled(compiled.metadata.shared, *usage(compiled.asm), asm, compiled.asm["ttgir"])


def _usage_on_nvidia(asm: Mapping[str, Any]) -> tuple[int, int]:
    """Registers and spilled bytes, which only the machine code tells: cuobjdump comes with triton."""
    import tempfile

    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+)", said), re.search(r"STACK:(\d+)", said)
    assert registers, said
    assert stack, said
    return int(registers[1]), int(stack[1])


def _usage_on_amd(asm: Mapping[str, Any]) -> tuple[int, int]:
    registers = re.search(r"\.vgpr_count: *(\d+)", asm["amdgcn"])
    scratch = re.search(r"\.private_segment_fixed_size: *(\d+)", asm["amdgcn"])
    assert registers, "no metadata in AMD's assembly"
    assert scratch, "no metadata in AMD's assembly"
    return int(registers[1]), int(scratch[1])


def main() -> None:
    variants = [Variant(**facts) for facts in json.load(sys.stdin)]
    results = [{target: asdict(_compile(variant, target)) for target in variant.targets} for variant in variants]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
