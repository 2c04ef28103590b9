"""Where tests of Triton kernels run: on the card, or where there is none, in Triton's interpreter on the CPU.

Import DEVICE before any kernel: each decides at its import whether it is compiled or interpreted.
"""

from __future__ import annotations

import os
import sys

import torch

HAS_CARD = torch.cuda.is_available()  # ROCm's builds of torch call theirs cuda, too
DEVICE = torch.device("cuda" if HAS_CARD else "cpu")

if not HAS_CARD and os.environ.get("TRITON_INTERPRET") != "1":
    if "triton" in sys.modules:
        raise RuntimeError("triton was imported before kit.triton_device, too early for its interpreter")
    os.environ["TRITON_INTERPRET"] = "1"
