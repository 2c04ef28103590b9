"""Ollama's word for how long a model stays loaded after a request: seconds, "5m", 0 for not at all, -1 for ever."""

from __future__ import annotations

import math
import re

from rowspan.server.error_replies import FieldError

UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def keep_alive_seconds(value: object) -> float | None:
    """Seconds; None: it stays while there is room.

    Raises:
        FieldError: it is no duration.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong(value)
    if isinstance(value, str):
        sign, text = (-1.0, value[1:]) if value.startswith("-") else (1.0, value)
        if re.fullmatch(r"\d+(\.\d*)?", text):
            seconds = sign * float(text)
        elif text and _PART.sub("", text) == "":
            seconds = sign * sum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
        else:
            raise _wrong(value)
    else:
        seconds = float(value)
    if not math.isfinite(seconds):
        raise _wrong(value)
    return None if seconds < 0 else seconds


def _wrong(value: object) -> FieldError:
    return FieldError(
        f"keep_alive is {value!r:.60}, which is no duration.",
        field="keep_alive",
        fix='Send seconds, or a text such as "5m"; 0: unload at once, -1: keep.',
    )
