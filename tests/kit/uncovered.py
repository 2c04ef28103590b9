"""One line for the end of a test run: what this host could not cover.

A test that cannot run here is skipped with a reason "WHAT: why". WHAT is what the host lacks, as briefly as can be:
"card: none here", "llama-server: not in PATH".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pytest

NATIVE_SOURCES = Path(__file__).parents[2] / "native"
EMULATED = "_emulated"


def known_isas(sources: Path = NATIVE_SOURCES) -> list[str]:
    """Instruction sets that native kernels are written for, emulations left out: one source file each."""
    names = sorted(file.stem.removeprefix("isa_") for file in sources.glob("isa_*.cpp"))
    return [name for name in names if not name.endswith(EMULATED)]


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped; of another process's report, too."""
    reason = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")


def uncovered_line(known: Sequence[str], tested: Collection[str], reasons: Iterable[str]) -> str:
    """What was not covered, and how much of it.

    Args:
        known: instruction sets that there are kernels for. tested: those that tests run with, emulations included.
        reasons: why tests were skipped, once for each test.

    Returns:
        "Not covered on this host: instruction set amx: emulated only; card: 3 tests"; "" if all was covered.
    """
    parts = [
        f"instruction set {isa}: {'emulated only' if isa + EMULATED in tested else 'no test'}"
        for isa in known
        if isa not in tested
    ]
    skipped = Counter(reason.partition(":")[0] for reason in reasons)
    parts += [f"{what}: {n} test{'s' if n > 1 else ''}" for what, n in sorted(skipped.items())]
    return f"Not covered on this host: {'; '.join(parts)}" if parts else ""
