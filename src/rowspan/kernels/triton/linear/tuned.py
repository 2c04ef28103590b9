"""Knows the tiles to use: those that tuning has found to be fastest on a card, stored in a file
(`rowspan.config.Paths`), or else those that configs.py chooses.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
import triton

from rowspan.config import Paths
from rowspan.json_store import read_json, write_json
from rowspan.kernels.triton.card_family import CardModel, card_of
from rowspan.kernels.triton.linear.configs import Config, as_data, choose, from_data
from rowspan.kernels.triton.linear.layout import BITS
from rowspan.quant.scheme import SCHEMES

log = logging.getLogger(__name__)

MOST_TOKENS = 4096  # more are computed like so many


def bucket(tokens: int) -> int:
    """The bucket of a number of tokens, which all share a configuration: the next power of two."""
    return min(MOST_TOKENS, 1 << (tokens - 1).bit_length())


@functools.lru_cache(maxsize=4096)
def config_for(scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Config:
    """The configuration for a matrix and a number of tokens: the timed one, or the default."""
    card, tokens = card_of(device), bucket(tokens)
    timed = _known().get(_key(card, scheme, tokens, rows, columns, dtype))
    return timed or choose(card, tokens, rows, columns, BITS[scheme], bool(SCHEMES[scheme].table))


def remember(
    scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device, config: Config
) -> None:
    """Use this configuration from now on. If the file cannot be written, only this process uses it."""
    key = _key(card_of(device), scheme, bucket(tokens), rows, columns, dtype)
    _known()[key] = config
    config_for.cache_clear()
    path = Paths.from_env().tuning
    try:
        write_json(path, {key: as_data(each) for key, each in (_read(path) | {key: config}).items()})
    except OSError as error:
        log.warning("What tuning found is not kept: %s", error)


def _key(card: CardModel, scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype) -> str:
    kind = str(dtype).removeprefix("torch.")
    return f"{card.name}, triton {triton.__version__}: linear {scheme} {rows}x{columns} {kind} {tokens}"


@functools.cache
def _known() -> dict[str, Config]:
    """All timed configurations: those in the file when this process first asked, and those found since."""
    return _read(Paths.from_env().tuning)


def _read(path: Path) -> dict[str, Config]:
    """The configurations in a file; none if it is damaged."""
    try:
        return {str(key): from_data(data) for key, data in read_json(path).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s is damaged and not used: %s. The next tuning writes it anew.", path, error)
        return {}
