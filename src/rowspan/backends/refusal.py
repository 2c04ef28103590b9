"""Refusing by name what a backend cannot honour."""

from __future__ import annotations

from collections.abc import Mapping

from rowspan.backends.protocol import Setup, UnsupportedOptionError


def refuse_given(setup: Setup, options: Mapping[str, str], backend: str, why: str) -> None:
    """Raise UnsupportedOptionError if the user has set one of these.

    Args:
        options: fields of EngineConfig → what the command line calls them.
    """
    for field, option in options.items():
        if field in setup.given:
            raise UnsupportedOptionError(
                f"{option} cannot be had with --backend {backend}.",
                why=why,
                fix="Leave it out, or use --backend native.",
            )
