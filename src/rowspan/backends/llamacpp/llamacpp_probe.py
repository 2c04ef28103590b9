"""Finds out what a llama-server can do, from its own `--help`, `--version` and `--list-devices`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rowspan.backends.process.programs import output

_ENTRY = re.compile(r"^ {0,2}(-.*)")
_NAMES = re.compile(r"(?<![\w-])(-{1,2}[A-Za-z][\w-]*)")
_CARD = re.compile(r"^\s*(?P<name>[A-Za-z]+\d+): (?P<what>.*?)(?: \((?P<total>\d+) MiB, (?P<free>\d+) MiB free\))?\s*$")


@dataclass(frozen=True)
class ListedCard:
    """A card under the program's name: CUDA0, ROCm1, Vulkan0. free: bytes of free memory; None: it does not say."""

    name: str
    what: str
    free: int | None


@dataclass(frozen=True)
class Features:
    """Abilities of a llama-server.

    flags: all names of its options.
    split_modes, cache_types: values that its help lists for them.
    deprecated_splits: split modes that it advises against.
    auto_layers: it finds out itself how many layers a card holds.
    """

    version: str
    flags: frozenset[str]
    split_modes: tuple[str, ...]
    deprecated_splits: frozenset[str]
    cache_types: tuple[str, ...]
    auto_layers: bool
    cards: tuple[ListedCard, ...]


def probe(program: Sequence[str]) -> Features:
    """Ask the program.

    Raises:
        MissingBackendError: it cannot be run.
    """
    help_text = output([*program, "--help"])
    cards = cards_from(output([*program, "--list-devices"])) if "--list-devices" in help_text else ()
    return features_from(help_text, version_from(output([*program, "--version"])), cards)


def features_from(help_text: str, version: str, cards: Sequence[ListedCard] = ()) -> Features:
    """Read the output of `--help`: options at the beginning of a line, their explanation behind or below them."""
    options = _options(help_text)
    split = options.get("--split-mode", "")
    return Features(
        version,
        frozenset(options),
        _listed(split),
        frozenset(re.findall(r"- (\w+)\b[^-]*deprecated", split, re.IGNORECASE)),
        _listed(options.get("--cache-type-k", "")),
        "auto" in options.get("--n-gpu-layers", ""),
        tuple(cards),
    )


def version_from(text: str) -> str:
    """The version in the output of `--version` (older programs first print lines about their devices)."""
    found = re.search(r"^version: (.+)$", text, re.MULTILINE)
    return f"llama.cpp {found[1].strip()}" if found else "llama.cpp, unknown version"


def cards_from(text: str) -> tuple[ListedCard, ...]:
    """The cards listed below the heading in the output of `--list-devices`."""
    _, _, listed = text.partition("vailable devices")
    matches = [match for line in listed.splitlines()[1:] if (match := _CARD.match(line))]
    return tuple(ListedCard(m["name"], m["what"], int(m["free"]) << 20 if m["free"] else None) for m in matches)


def _options(help_text: str) -> dict[str, str]:
    """The help's text for every name of an option."""
    options: dict[str, str] = {}
    names: list[str] = []
    for line in help_text.splitlines():
        if entry := _ENTRY.match(line):
            head = re.split(r"\s{3,}(?![\s-])", entry[1])[0]  # names stand before the wide gap, if there is one
            names = _NAMES.findall(head)
        elif line and not line[0].isspace():
            names = []
        for name in names:
            options[name] = f"{options.get(name, '')}{line}\n"
    return options


def _listed(text: str) -> tuple[str, ...]:
    """The values in `{a,b}`, or behind `allowed values:`."""
    found = re.search(r"\{([\w, ]+)\}", text) or re.search(r"allowed values: ([\w, ]+)", text)
    return tuple(value.strip() for value in found[1].split(",")) if found else ()
