"""The field `samplers`: which of them are applied, in llama.cpp's names or letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rowspan.server.error_replies import FieldError


class Sampler(NamedTuple):
    """letter: what stands for it in a text. off: fields of a request, with the values that switch it off."""

    letter: str
    off: Mapping[str, Any]


# In the order in which they are applied, the only one there is.
SAMPLERS = {
    "penalties": Sampler(
        "e", dict.fromkeys(("repeat_penalty", "repetition_penalty", "frequency_penalty", "presence_penalty"))
    ),
    "dry": Sampler("d", {"dry_multiplier": None}),
    "top_n_sigma": Sampler("s", {"top_n_sigma": None}),
    "top_k": Sampler("k", {"top_k": 0}),
    "typ_p": Sampler("y", {"typical_p": 1.0}),
    "top_p": Sampler("p", {"top_p": 1.0}),
    "min_p": Sampler("m", {"min_p": 0.0}),
    "xtc": Sampler("x", {"xtc_probability": 0.0}),
    "temperature": Sampler("t", {"temperature": 1.0, "dynatemp_range": 0.0}),
}
ALIASES = {"typical_p": "typ_p", "typical": "typ_p", "typ": "typ_p", "nucleus": "top_p", "temp": "temperature"}
BY_LETTER = {sampler.letter: name for name, sampler in SAMPLERS.items()}


def switched_off(asked: str | Sequence[str]) -> dict[str, Any]:
    """The fields that switch off all samplers but these.

    Raises:
        FieldError: one is unknown, or they are in another order.
    """
    words = [BY_LETTER.get(letter, letter) for letter in asked] if isinstance(asked, str) else asked
    names = [ALIASES.get(word.replace("-", "_"), word.replace("-", "_")) for word in words]
    if names != [name for name in SAMPLERS if name in names]:
        raise FieldError(
            "samplers has one that is not there, or another order.",
            field="samplers",
            why=f"They are applied in the order {', '.join(SAMPLERS)}.",
            fix="Leave out those that you do not want, and keep the order of the others.",
        )
    off: dict[str, Any] = {}
    for name, sampler in SAMPLERS.items():
        off |= {} if name in names else sampler.off
    return off
