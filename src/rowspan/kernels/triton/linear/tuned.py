"""The tiles that are used: what tuning has found to be fastest on a card, kept in a file
(`rowspan.config.TuningConfig`), and elsewhere what configs.py chooses.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
from pathlib import Path

import torch
import triton

from rowspan.config import TuningConfig
from rowspan.kernels.triton.card_family import CardModel, card_of
from rowspan.kernels.triton.linear.configs import Config, as_data, choose, from_data
from rowspan.kernels.triton.linear.layout import BITS

log = logging.getLogger(__name__)

MOST_TOKENS = 4096  # more are computed like so many


def bucket(tokens: int) -> int:
    """Numbers of tokens that share a configuration: the next power of two."""
    return min(MOST_TOKENS, 1 << (tokens - 1).bit_length())


@functools.lru_cache(maxsize=4096)
def config_for(scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Config:
    """For so many tokens and a matrix, the timed configuration or the default one."""
    card, tokens = card_of(device), bucket(tokens)
    timed = _known().get(_key(card, scheme, tokens, rows, columns, dtype))
    return timed or choose(card, tokens, rows, columns, BITS[scheme])


def remember(
    scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype, device: torch.device, config: Config
) -> None:
    """Use this configuration from now on. A file that cannot be written only means that other processes do not."""
    key = _key(card_of(device), scheme, bucket(tokens), rows, columns, dtype)
    _known()[key] = config
    config_for.cache_clear()
    path = TuningConfig.from_env().results
    text = json.dumps({key: as_data(each) for key, each in (_read(path) | {key: config}).items()}, indent=1)
    try:
        _write(path, text)
    except OSError as error:
        log.warning("What tuning found is not kept: %s", error)


def _key(card: CardModel, scheme: str, tokens: int, rows: int, columns: int, dtype: torch.dtype) -> str:
    kind = str(dtype).removeprefix("torch.")
    return f"{card.name}, triton {triton.__version__}: linear {scheme} {rows}x{columns} {kind} {tokens}"


@functools.cache
def _known() -> dict[str, Config]:
    """What the file held when this process first asked, and what was found since."""
    return _read(TuningConfig.from_env().results)


def _read(path: Path) -> dict[str, Config]:
    """Nothing of a file that is damaged."""
    try:
        kept = json.loads(path.read_bytes())
        return {str(key): from_data(data) for key, data in kept.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s is damaged and not used: %s. The next tuning writes it anew.", path, error)
        return {}


def _write(path: Path, text: str) -> None:
    """All of it or nothing, whoever writes at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
