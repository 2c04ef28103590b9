"""The grids of the IQ types, which `grids.inc` lists: a few numbers name a point, which is 4 or 8 elements."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import torch

_GRID = re.compile(r"^GRID\((\w+), (\d),([^)]*)\)", re.MULTILINE)


@cache
def grid(scheme: str) -> torch.Tensor:
    """A scheme's grid, uint8 (points, elements): places among its magnitudes."""
    text = Path(__file__).with_suffix(".inc").read_text(encoding="ascii")
    width, body = next((int(width), body) for name, width, body in _GRID.findall(text) if name == scheme)
    digits = re.sub(r"\W", "", body)
    bits = 2 if width == 8 else 3
    per_point = width * bits // 4
    points = torch.tensor([int(digits[at : at + per_point], 16) for at in range(0, len(digits), per_point)])
    fields: torch.Tensor = points.unsqueeze(1) >> torch.arange(0, width * bits, bits)
    return (fields & (1 << bits) - 1).to(torch.uint8)


def points(scheme: str, indices: torch.Tensor) -> torch.Tensor:
    """The elements of the points that `indices` (n, k) name, uint8 (n, k · width)."""
    return grid(scheme).to(indices.device)[indices.int()].flatten(1)
