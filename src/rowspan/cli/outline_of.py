"""What a user names, for planning: a shape of the catalog, a file, a configuration, an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowspan.plan.outline import Outline

DEFAULT_QUANTIZATION = "Q4_K_M"


def outline_of(name: str) -> Outline:
    from rowspan.plan.models import find_model, unknown_model
    from rowspan.plan.outline import outline_of_shape

    base, _, scheme = name.rpartition(":")
    known = find_model(base)
    if known:
        return outline_of_shape(known.shape, scheme)
    known = find_model(name)
    if known is None:
        raise unknown_model(name)
    return outline_of_shape(known.shape, DEFAULT_QUANTIZATION)
