"""Refuses by name the options that a backend cannot honour."""

from __future__ import annotations

from collections.abc import Mapping

from rowspan.backends.protocol import Setup, UnsupportedOptionError

ELSE = "Leave it out, or use --backend native."


def refuse_given(setup: Setup, options: Mapping[str, str], backend: str, why: str, *, fix: str = ELSE) -> None:
    """Raise UnsupportedOptionError if the user has set one of these options.

    Args:
        options: fields of EngineConfig, each with the option's name on the command line.
    """
    for field, option in options.items():
        if field in setup.given:
            raise UnsupportedOptionError(
                f"{option} cannot be had with --backend {backend}.",
                why=why,
                fix=fix,
            )
