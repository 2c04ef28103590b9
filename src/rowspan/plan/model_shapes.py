"""The catalog of well-known shapes: `llama-3-70b`, without a file. Data with sources in catalog/models.csv.

A source is a Hugging Face repository, whose config.json states the dimensions and whose safetensors index the number of
parameters; tests hold the two to each other.
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rowspan.checkpoint.shape import Shape
from rowspan.errors import ModelNotFoundError

DATA = Path(__file__).with_name("catalog") / "models.csv"
FLAGS = ("tied", "qkv_bias", "qk_norm", "post_norms")
WORDS = ("name", "architecture")


@dataclass(frozen=True)
class KnownModel:
    """parameters: as published. source: where the dimensions are stated."""

    shape: Shape
    aliases: tuple[str, ...]
    parameters: int
    source: str


def known_models() -> list[KnownModel]:
    """The whole catalog, in its own order."""
    with DATA.open(encoding="utf-8", newline="") as file:
        return [_model(row) for row in csv.DictReader(file)]


def find_model(name: str) -> KnownModel | None:
    """The model of a name, in any spelling: "llama3:70b" is "llama-3-70b". None: there is none."""
    wanted = plain(name)
    return next((model for model in known_models() if wanted in map(plain, _names(model))), None)


def unknown_model(name: str, other_names: tuple[str, ...] = ()) -> ModelNotFoundError:
    """The error for a name that no catalog holds. other_names: what would have done as well."""
    spellings = {plain(each): each for model in known_models() for each in _names(model)}
    spellings |= {plain(each): each for each in other_names}
    near = difflib.get_close_matches(plain(name), list(spellings), n=3, cutoff=0.5)
    suggestion = f"Did you mean {' or '.join(spellings[each] for each in near)}? " if near else ""
    return ModelNotFoundError(
        f"No model is known as {name!r}.",
        why="It is neither a file, nor an address, nor a name of the catalog.",
        fix=f"{suggestion}Else give a GGUF file, a config.json, an https:// address of a GGUF file, or hf:ORG/REPO.",
    )


def plain(name: str) -> str:
    """A name without what people write differently."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _names(model: KnownModel) -> tuple[str, ...]:
    return (model.shape.name, *model.aliases)


def _model(row: dict[str, str]) -> KnownModel:
    def value(name: str) -> Any:
        return row[name] if name in WORDS else bool(row[name]) if name in FLAGS else int(row[name] or 0)

    return KnownModel(
        shape=Shape(**{field.name: value(field.name) for field in fields(Shape)}),
        aliases=tuple(row["aliases"].split()),
        parameters=int(row["parameters"]),
        source=row["source"],
    )
