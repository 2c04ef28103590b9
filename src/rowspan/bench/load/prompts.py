"""Cuts prompts out of a text: each is another stretch of it, and some begin with a prefix that they share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rowspan.errors import UsageError

OWN_TEXT = "persuasion.txt"  # Jane Austen, Persuasion (1818), the first chapters; in the public domain


@dataclass(frozen=True)
class Mix:
    """How prompts are made.

    words: number of words in a prompt; a token is about three quarters of a word.
    shared: share of the prompts, 0 to 1, that begin with one of `prefixes` prefixes of `prefix_words` words, as
        conversations with the same instructions do.
    """

    words: int = 200
    shared: float = 0.0
    prefixes: int = 1
    prefix_words: int = 100


def prompts(text: str, count: int, mix: Mix, seed: int = 0) -> list[str]:
    """Make `count` prompts, the same ones for the same seed.

    Raises:
        UsageError: the text is too short, or the mix makes no sense.
    """
    words = text.split()
    if mix.shared and mix.prefix_words >= mix.words:
        raise UsageError(
            f"A prompt of {mix.words} words has no room behind a beginning of {mix.prefix_words}.",
            fix="Use a larger --prompt-words, or a smaller --prefix-words.",
        )
    if len(words) < 2 * mix.words:
        raise UsageError(
            f"The text has {len(words)} words, too few for prompts of {mix.words}.",
            fix="Give a longer text (--text), or a smaller --prompt-words.",
        )
    chance = random.Random(seed)
    beginnings = [_stretch(words, mix.prefix_words, chance) for _ in range(mix.prefixes)] if mix.shared else []
    return [_prompt(words, mix, beginnings, chance) for _ in range(count)]


def read_text(path: Path | None) -> str:
    """The text of a file, or the text that is shipped with Rowspan.

    Raises:
        UsageError: the file cannot be read.
    """
    if path is None:
        return resources.files("rowspan.bench.load").joinpath(OWN_TEXT).read_text(encoding="utf-8")
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"The text {path} cannot be read.", why=f"{error}.", fix="Give a file of text.") from None


def _prompt(words: Sequence[str], mix: Mix, beginnings: Sequence[str], chance: random.Random) -> str:
    if chance.random() < mix.shared:
        return f"{chance.choice(beginnings)} {_stretch(words, mix.words - mix.prefix_words, chance)}"
    return _stretch(words, mix.words, chance)


def _stretch(words: Sequence[str], length: int, chance: random.Random) -> str:
    start = chance.randrange(len(words) - length + 1)
    return " ".join(words[start : start + length])
