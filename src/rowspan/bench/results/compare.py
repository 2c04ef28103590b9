"""Decides whether two rows may be compared, and what the comparison says.

Rows of different work or of different models measure different things. For other rows, the verdict names the groups of
fields that differ: if only one group differs, the change has one cause; if several do, it cannot be attributed to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from rowspan.bench.results.change import Change, change
from rowspan.bench.results.fields import FIELDS, Field, Group
from rowspan.bench.results.repetitions import workload_of

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)

# A machine's state is never the same twice: these are the differences that do not count.
CELSIUS, LOAD_SHARE, CLOCK_SHARE = 10.0, 0.1, 0.1
NEVER = (Group.WORK, Group.MODEL)
CAUSES = (Group.MACHINE, Group.SYSTEM, Group.ENGINE, Group.OPTIONS, Group.STATE)
# Fields in an engine's own terms, which cannot be compared with another engine's; its flags repeat the options.
OWN_WORDS = (
    "build_commit",
    "build_number",
    "torch_version",
    "kernels",
    "engine_version",
    "engine_flags",
    "model_filename",
)


class Verdict(Enum):
    """The result of a comparison; the value is the text that people read."""

    SAME = "yes, nothing that is recorded differs"
    ONE_CAUSE = "yes"
    SEVERAL_CAUSES = "with care"
    NO = "no"


@dataclass(frozen=True)
class Comparison:
    """differing: names of differing fields, by group. change: change of the rates; None if they may not be compared."""

    verdict: Verdict
    differing: Mapping[Group, Sequence[str]]
    change: Change | None

    @property
    def reason(self) -> str:
        """The verdict in words, without the fields' names."""
        groups = [group.value for group in self.differing]
        match self.verdict:
            case Verdict.SAME:
                return "Nothing that is recorded differs."
            case Verdict.ONE_CAUSE:
                return f"Only {groups[0]} differ{'' if groups[0].endswith('s') and 'state' not in groups[0] else 's'}."
            case Verdict.SEVERAL_CAUSES:
                return f"Several things differ: {', '.join(groups)}. The change cannot be laid to one of them."
            case Verdict.NO:
                never = [group.value for group in self.differing if group in NEVER]
                return f"They measure different things: {' and '.join(never)} differ."


def compare(before: Row, after: Row) -> Comparison:
    """Compare two rows that have all fields."""
    differing: dict[Group, list[str]] = {}
    for field in FIELDS:
        if field.group in (*NEVER, *CAUSES) and _differs(field, before, after):
            differing.setdefault(field.group, []).append(field.name)
    if not any(group in differing for group in NEVER):
        verdict = (Verdict.SAME, Verdict.ONE_CAUSE, Verdict.SEVERAL_CAUSES)[min(2, len(differing))]
        return Comparison(verdict, differing, change(before["samples_ts"], after["samples_ts"]))
    return Comparison(Verdict.NO, differing, None)


def same_work(row: Row, others: Sequence[R]) -> R | None:
    """The row of another run that measured the same work with the same options and engine; the last one, if there are
    several.
    """
    alike = [
        other
        for other in others
        if workload_of(other) == workload_of(row)
        and all(other[name] == row[name] for name in ("engine", "model_fingerprint", *_option_names()))
    ]
    return alike[-1] if alike else None


def _option_names() -> list[str]:
    return [field.name for field in FIELDS if field.group is Group.OPTIONS and field.name != "engine_flags"]


def _differs(field: Field, before: Row, after: Row) -> bool:
    one, other = before[field.name], after[field.name]
    if one == other:
        return False
    if field.name == "model_sha256":
        return one is not None and other is not None
    if field.group is Group.STATE:
        return _state_differs(field.name, one, other)
    if field.name in OWN_WORDS:
        return bool(before["engine"] == after["engine"])
    return True


def _state_differs(name: str, one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    if name in ("other_load", "stolen_share"):
        return bool(abs(one - other) > LOAD_SHARE)
    if name == "throttle_events":
        return bool(one) != bool(other)
    if name == "other_engines_paused":
        return False  # they take no more than memory
    if name == "card_links_loaded":
        return True
    pairs = list(zip(_numbers(one), _numbers(other), strict=False))
    if "celsius" in name:
        return any(abs(a - b) > CELSIUS for a, b in pairs)
    return any(abs(a - b) > CLOCK_SHARE * max(a, b) for a, b in pairs)


def _numbers(value: float | str) -> list[float]:
    """The values in a field of one sensor, or of a list with one sensor per card."""
    if not isinstance(value, str):
        return [value]
    return [float(part) for part in value.split(", ") if part != "-"]
