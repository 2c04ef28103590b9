"""Finds the fastest tiles for a matrix on a card. It runs only when asked to, never by itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from rowspan.kernels.triton.card_family import card_of
from rowspan.kernels.triton.linear.configs import Config, candidates
from rowspan.kernels.triton.linear.dispatch import linear
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.tuned import bucket, remember
from rowspan.kernels.triton.linear.unpacked import unpack
from rowspan.kernels.triton.usable import is_unusable

log = logging.getLogger(__name__)


def tune(
    weight: PlanarWeight,
    tokens: int,
    dtype: torch.dtype,
    measure: Callable[[Callable[[], Tensor]], float] | None = None,
) -> Config:
    """Time all candidates for one matrix, and use the fastest from then on. Candidates that the card cannot run, or
    computes wrongly, are left out. Takes a second for each that is not in triton's cache of compiled kernels.

    Args:
        tokens: all numbers of tokens in its bucket are computed alike.
        dtype: type of activations.
        measure: returns how long a call takes; None: triton's do_bench, which empties the card's cache before each.

    Raises:
        RuntimeError: no candidate computes what it should.
    """
    device = weight.codes.device
    card, tokens = card_of(device), bucket(tokens)
    x = torch.randn(tokens, weight.columns, device=device).to(dtype)
    expected, tolerance = _expected(x, weight)
    times: dict[Config, float] = {}
    for config in dict.fromkeys(
        candidates(card, tokens, weight.rows, weight.columns, weight.bits, weight.table is not None)
    ):
        call = functools.partial(linear, x, weight, None, config)
        try:
            if not bool(((call().float() - expected).abs() <= tolerance).all()):
                log.warning("%s computes wrong with %s: left out.", card.name, config)
                continue
            times[config] = (measure or triton.testing.do_bench)(call)
        except Exception as error:  # too large for the card, say
            if not is_unusable(error):
                raise
            log.info("%s cannot run %s: %s", card.name, config, error)
    if not times:
        raise RuntimeError(f"no way of computing {weight.scheme} is right on {card.name}")
    best = min(times, key=times.__getitem__)
    remember(weight.scheme, tokens, weight.rows, weight.columns, dtype, device, best)
    return best


def _expected(x: Tensor, weight: PlanarWeight) -> tuple[Tensor, Tensor]:
    """The outputs in float32, and twice the error to which rounding weights and outputs to x's type can lead."""
    matrix = torch.empty(weight.rows, weight.columns, device=x.device)
    unpack(weight, 0, matrix)
    magnitude = x.float().abs() @ matrix.abs().T
    return x.float() @ matrix.T, 2 * torch.finfo(x.dtype).eps * magnitude
