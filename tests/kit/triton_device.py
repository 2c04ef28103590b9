"""Where tests of Triton kernels run: on the card, or where there is none, in Triton's interpreter on the CPU.

Import DEVICE before any kernel: each decides at its import whether it is compiled or interpreted.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch

HAS_CARD = torch.cuda.is_available()  # ROCm's builds of torch call theirs cuda, too
DEVICE = torch.device("cuda" if HAS_CARD else "cpu")


def _interpret() -> None:
    """Have kernels interpreted that are imported from now on, with a card's arithmetic in bfloat16.

    Triton 3.7's interpreter holds bfloat16 as its bits, which it truncates when converting, and multiplies as integers.
    And it multiplies floats with numpy's `matmul`, where a row's bits depend on how many rows there are, on Zen 5 at
    least; a card's matrix units know no other rows.
    """
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported before kit.triton_device, too early for its interpreter")
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float
    dot = interpreter.InterpreterBuilder.create_dot

    def convert_float(array: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            return torch.from_numpy(array.copy()).bfloat16().view(torch.uint16).numpy()
        return convert(array, source, target, rounding)

    def create_dot(self: Any, a: Any, b: Any, sums: Any, *rest: Any) -> Any:
        a, b = (self.create_fp_ext(each, tl.float32) if each.dtype == tl.bfloat16 else each for each in (a, b))
        if a.dtype != tl.float32 or b.dtype != tl.float32:
            return dot(self, a, b, sums, *rest)
        product = np.einsum("ik,kj->ij", a.data, b.data)
        return interpreter.TensorHandle(product + sums.data, sums.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot


if not HAS_CARD:
    _interpret()
