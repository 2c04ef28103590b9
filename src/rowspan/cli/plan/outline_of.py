"""What a user names, for planning: a shape of the catalog, a file, a configuration, an address."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

from rowspan.errors import UsageError

if TYPE_CHECKING:
    from rowspan.checkpoint.outlined import HeaderFacts
    from rowspan.checkpoint.shape import Shape
    from rowspan.plan.outline import Outline

DEFAULT_QUANTIZATION = "Q4_K_M"
CONFIG = "config.json"


def outline_of(name: str) -> Outline:
    """The model of a name, in this order: a file or folder; an https:// address; hf:ORG/REPO[:FILE or SCHEME]; a shape
    of the catalog, with or without a quantization behind it. Of a remote file its header alone is fetched.

    Raises:
        RowspanError: none of these, or it cannot be read.
    """
    if os.path.isfile(name):
        return _of_config(Path(name).read_text("utf-8", "replace"), _name(name)) if _is_json(name) else _of_file(name)
    if os.path.isdir(name) and os.path.isfile(os.path.join(name, CONFIG)):
        return _of_config(Path(name, CONFIG).read_text("utf-8", "replace"), Path(name).resolve().name)
    scheme, _, rest = name.partition(":")
    if scheme.lower() in ("http", "https"):
        return _of_address(name)
    if scheme.lower() == "hf":
        return _of_hugging_face(rest)
    return _of_catalog(name)


def in_catalog(name: str) -> tuple[Shape, str] | None:
    """A known shape, and the quantization named behind it."""
    from rowspan.plan.model_shapes import find_model

    known, quantization = find_model(name), DEFAULT_QUANTIZATION
    if known is None:
        base, _, quantization = name.rpartition(":")
        known = find_model(base)
    return None if known is None else (known.shape, quantization)


def _of_catalog(name: str) -> Outline:
    from rowspan.plan.model_shapes import unknown_model
    from rowspan.plan.outline import outline_of_shape

    known = in_catalog(name)
    if known is not None:
        return outline_of_shape(*known)
    if name.endswith((".gguf", ".json")) or os.sep in name or name.startswith((".", "~")):
        raise UsageError(f"There is no file {name}.", fix="Check the path, or name a shape: `rowspan plan --list`.")
    raise unknown_model(name)


def _of_file(path: str) -> Outline:
    from rowspan.checkpoint.outlined import read_local

    return _of_header(read_local(Path(path)))


def _of_header(facts: HeaderFacts) -> Outline:
    from rowspan.plan.outline import outline

    return outline(facts.shape, facts.listed, facts.infos, facts.scheme)


def _of_config(text: str, name: str, quantization: str = DEFAULT_QUANTIZATION) -> Outline:
    from rowspan.checkpoint.hf_config import shape_from_config
    from rowspan.plan.outline import outline_of_shape

    return outline_of_shape(shape_from_config(text, name), quantization)


def _of_address(address: str, headers: dict[str, str] | None = None) -> Outline:
    from rowspan.checkpoint.outlined import facts
    from rowspan.hub.header import fetch_headers, fetch_text

    if _is_json(address.partition("?")[0]):
        return _of_config(fetch_text(address, headers), _name(address.partition("?")[0]))
    name, found = fetch_headers(address, headers)
    return _of_header(facts(Path(name), found))


def _of_hugging_face(rest: str) -> Outline:
    """The header of a GGUF file; of a repository without one, its configuration."""
    from rowspan.config import HubConfig
    from rowspan.hub.header import chosen_file, fetch_text, hugging_face_address, hugging_face_files
    from rowspan.plan.quantize import quantization

    repo, _, choice = rest.partition(":")
    config = HubConfig.from_env()
    files = hugging_face_files(repo, config)
    if CONFIG in files and not any(file.endswith(".gguf") for file in files):
        text = fetch_text(*hugging_face_address(repo, CONFIG, config))
        return _of_config(text, repo.rpartition("/")[2], quantization(choice or DEFAULT_QUANTIZATION))
    file = chosen_file(files, choice or None, repo)
    return _of_address(*hugging_face_address(repo, file, config))


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _name(path: str) -> str:
    """What to call the model of a configuration: the folder that it lies in."""
    return Path(path).absolute().parent.name or CONFIG
