"""The catalog of well-known models, such as `llama-3-70b`, that are planned without a file. Its data, with their
sources, are in catalog/models.csv: each row holds a file's metadata under GGUF's keys.

A source is a Hugging Face repository, whose config.json states the dimensions and whose safetensors index states the
number of parameters; tests compare the two.
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rowspan.errors import ModelNotFoundError
from rowspan.model.families.registry import spec_of
from rowspan.model.header import ModelHeader
from rowspan.model.spec import ModelSpec

DEFAULT_QUANTIZATION = "Q4_K_M"
DATA = Path(__file__).with_name("catalog") / "models.csv"
OUR_COLUMNS = ("name", "aliases", "architecture", "vocab", "tied", "parameters", "source")  # the others are GGUF's keys


@dataclass(frozen=True)
class KnownModel:
    """A model of the catalog. parameters: the published number. source: where the dimensions are stated."""

    header: ModelHeader
    aliases: tuple[str, ...]
    parameters: int
    source: str

    @property
    def name(self) -> str:
        return self.header.title

    @cached_property
    def spec(self) -> ModelSpec:
        return spec_of(self.header)


def known_models() -> list[KnownModel]:
    """The whole catalog, in its own order."""
    with DATA.open(encoding="utf-8", newline="") as file:
        return [_model(row) for row in csv.DictReader(file)]


def find_model(name: str) -> KnownModel | None:
    """The model with a name in any spelling: "llama3:70b" is "llama-3-70b". None if there is none."""
    wanted = plain(name)
    return next((model for model in known_models() if wanted in map(plain, _names(model))), None)


def in_catalog(name: str) -> tuple[ModelSpec, str] | None:
    """A known model's spec, and the quantization named behind it: "llama-3-70b:q8_0"."""
    known, quantization = find_model(name), DEFAULT_QUANTIZATION
    if known is None:
        base, _, quantization = name.rpartition(":")
        known = find_model(base)
    return None if known is None else (known.spec, quantization)


def unknown_model(name: str, other_names: tuple[str, ...] = ()) -> ModelNotFoundError:
    """The error for a name that no catalog holds. other_names: names that would also have been accepted."""
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
    """A name without the characters that people write differently."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _names(model: KnownModel) -> tuple[str, ...]:
    return (model.name, *model.aliases)


def _model(row: dict[str, str]) -> KnownModel:
    architecture = row["architecture"]
    sizes = {f"{architecture}.{key}": int(value) for key, value in row.items() if key not in OUR_COLUMNS and value}
    return KnownModel(
        header=ModelHeader(
            {"general.architecture": architecture, **sizes},
            vocab_size=int(row["vocab"]),
            tied=bool(row["tied"]),
            title=row["name"],
            for_planning=True,
        ),
        aliases=tuple(row["aliases"].split()),
        parameters=int(row["parameters"]),
        source=row["source"],
    )
