"""The tables of schemes whose codes stand for other numbers."""

from __future__ import annotations

import torch

from rowspan.quant.scheme import SCHEMES


def table_of(scheme: str, beside: torch.Tensor) -> torch.Tensor:
    """A scheme's table, float32 (16,), on the device of another tensor."""
    geometry = SCHEMES[scheme]
    return torch.tensor(geometry.table, dtype=torch.float32, device=beside.device) * geometry.unit
