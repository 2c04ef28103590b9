"""The ways to split a model over devices."""

from __future__ import annotations

from enum import StrEnum


class SplitMode(StrEnum):
    NONE = "none"
    LAYER = "layer"
    ROW = "row"
