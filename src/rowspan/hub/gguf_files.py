"""Understands GGUF files' names: which files make up one model, and which model of a repository a user means.

Models above a size are cut into `NAME-00001-of-0000N.gguf` (llama.cpp's gguf-split). The weight scheme is part of the
name by custom only, so a choice is matched against the name's words.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from rowspan.errors import ModelNotFoundError

# The order of preference without a choice: the usual compromise, then larger and safe schemes, then smaller ones.
PREFERRED = (
    *("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "MXFP4", "Q4_K_S", "IQ4_XS", "Q4_1", "Q4_0", "Q3_K_M", "IQ3_XXS", "Q2_K"),
    *("IQ2_M", "IQ2_XXS", "IQ1_M", "IQ1_S", "BF16", "F16", "F32"),
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)  # vision projectors, calibration data
_MOST_NAMES_LISTED = 30


def part_names(name: str) -> list[str]:
    """Names of all parts of the model to which the file `name` belongs, in order; `[name]` if it is not split."""
    match = _PART.search(name)
    if match is None:
        return [name]
    stem, count = name[: match.start()], int(match[2])
    return [f"{stem}-{index:05d}-of-{count:05d}.gguf" for index in range(1, count + 1)]


def stem(name: str) -> str:
    """A file's name without folder, part number and suffix."""
    return _PART.sub("", PurePosixPath(name).name).removesuffix(".gguf")


def complete_models(names: Collection[str]) -> list[list[str]]:
    """The parts of every model whose parts are all among `names`, sorted by name."""
    candidates = {tuple(part_names(name)) for name in names if name.endswith(".gguf") and not _NO_MODEL.search(name)}
    present = set(names)
    return [list(parts) for parts in sorted(candidates) if present.issuperset(parts)]


def pick(names: Collection[str], choice: str | None) -> list[str] | None:
    """The parts of the model that `choice` means; None if it means no model, or more than one.

    Args:
        names: files of one repository or folder, with `/` between folders.
        choice: a file name, a weight scheme such as "Q4_K_M" (in any case), or None for the most usual one.
    """
    models = complete_models(names)
    if choice is None:
        if len(models) == 1:
            return models[0]
        return next((found for scheme in PREFERRED if (found := pick(names, scheme))), None)
    for parts in models:
        if choice in (*parts, *(PurePosixPath(part).name for part in parts)):
            return parts
    word = re.compile(rf"(?:^|[-._]){re.escape(choice)}(?:[-.]|$)", re.IGNORECASE)
    matching = [parts for parts in models if word.search(stem(parts[0]))]
    return matching[0] if len(matching) == 1 else None


def choose(names: Collection[str], choice: str | None, where: str) -> list[str]:
    """Like `pick`, but an error lists the available models if none can be picked.

    Raises:
        ModelNotFoundError: no model, or more than one, fits the choice.
    """
    parts = pick(names, choice)
    if parts is not None:
        return parts
    models = complete_models(names)
    if not models:
        raise ModelNotFoundError(
            f"There is no GGUF file in {where}.",
            why="Rowspan reads models in the GGUF format.",
            fix="Look for a repository of the same model whose name ends in -GGUF.",
        )
    listed = ", ".join(parts[0] for parts in models[:_MOST_NAMES_LISTED])
    more = len(models) - _MOST_NAMES_LISTED
    raise ModelNotFoundError(
        f"No single file of {where} fits {choice!r}." if choice else f"{where} holds several models.",
        why=f"There are: {listed}{f' and {more} more' if more > 0 else ''}.",
        fix=f"Name one: {where}:FILE.gguf, or {where}:SCHEME such as Q4_K_M.",
    )
