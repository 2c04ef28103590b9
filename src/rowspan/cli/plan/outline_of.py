"""Finds the model that a user names for planning: a shape of the catalog, a file, a configuration, or an address."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

from rowspan.errors import UsageError

if TYPE_CHECKING:
    from rowspan.plan.rigs.gguf_outline import HeaderFacts
    from rowspan.plan.rigs.outline import Outline

CONFIG = "config.json"


def outline_of(name: str) -> Outline:
    """The outline of a named model. The name is tried as, in this order: a file or folder; an https:// address;
    hf:ORG/REPO[:FILE or SCHEME]; a shape of the catalog, with or without a quantization behind it. Only the header of a
    remote file is fetched.

    Raises:
        RowspanError: the name is none of these, or cannot be read.
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


def _of_catalog(name: str) -> Outline:
    from rowspan.plan.rigs.model_shapes import in_catalog, unknown_model
    from rowspan.plan.rigs.outline import outline_of_spec

    known = in_catalog(name)
    if known is not None:
        return outline_of_spec(*known)
    if name.endswith((".gguf", ".json")) or os.sep in name or name.startswith((".", "~")):
        raise UsageError(f"There is no file {name}.", fix="Check the path, or name a shape: `rowspan plan --list`.")
    raise unknown_model(name)


def _of_file(path: str) -> Outline:
    from rowspan.plan.rigs.gguf_outline import read_local

    return _of_header(read_local(Path(path)))


def _of_header(facts: HeaderFacts) -> Outline:
    from rowspan.plan.rigs.outline import outline

    return outline(facts.spec, facts.listed, facts.infos, facts.scheme)


def _of_config(text: str, name: str, quantization: str | None = None) -> Outline:
    from rowspan.model.families.registry import spec_of
    from rowspan.model.hf_config import header_of_config
    from rowspan.plan.rigs.model_shapes import DEFAULT_QUANTIZATION
    from rowspan.plan.rigs.outline import outline_of_spec

    return outline_of_spec(spec_of(header_of_config(text, name)), quantization or DEFAULT_QUANTIZATION)


def _of_address(address: str, headers: dict[str, str] | None = None) -> Outline:
    from rowspan.hub.remote_header import fetch_headers, fetch_text
    from rowspan.plan.rigs.gguf_outline import facts

    if _is_json(address.partition("?")[0]):
        return _of_config(fetch_text(address, headers), _name(address.partition("?")[0]))
    name, found = fetch_headers(address, headers)
    return _of_header(facts(Path(name), found))


def _of_hugging_face(rest: str) -> Outline:
    """The outline from a GGUF file's header, or from the configuration of a repository that has no GGUF file."""
    from rowspan.config import HubConfig
    from rowspan.hub.remote_header import chosen_file, fetch_text, hugging_face_address, hugging_face_files
    from rowspan.plan.rigs.quantize import quantization

    repo, _, choice = rest.partition(":")
    config = HubConfig.from_env()
    files = hugging_face_files(repo, config)
    if CONFIG in files and not any(file.endswith(".gguf") for file in files):
        text = fetch_text(*hugging_face_address(repo, CONFIG, config))
        return _of_config(text, repo.rpartition("/")[2], quantization(choice) if choice else None)
    file = chosen_file(files, choice or None, repo)
    return _of_address(*hugging_face_address(repo, file, config))


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def _name(path: str) -> str:
    """The name for a model that a configuration describes: that of the folder that holds it."""
    return Path(path).absolute().parent.name or CONFIG
