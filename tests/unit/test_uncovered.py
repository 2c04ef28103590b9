"""The last line of a test run, which tells what the host could not cover."""

from __future__ import annotations

import pytest
from kit.native_isas import EMULATED, NATIVE
from kit.uncovered import known_isas, skip_reason, uncovered_line


def test_what_is_missing_is_counted() -> None:
    known, tested = ["amx", "avx2", "avx512", "vnni"], ["avx512", "avx2", "amx_emulated"]
    reasons = ["card: none here", "docker-compose: not installed", "card: none here"]
    assert uncovered_line(known, tested, reasons) == (
        "Not covered on this host: instruction set amx: emulated only; instruction set vnni: no test; "
        "card: 2 tests; docker-compose: 1 test"
    )


def test_nothing_is_said_where_nothing_is_missing() -> None:
    assert uncovered_line(["avx2"], ["avx2"], []) == ""


def test_instruction_sets_are_those_that_can_be_tested() -> None:
    known = known_isas()
    assert set(NATIVE) <= set(known)
    assert {name.removesuffix("_emulated") for name in EMULATED} <= set(known)
    assert not {name for name in known if name.endswith("_emulated")}


@pytest.mark.parametrize("where", [("file.py", 3, "Skipped: card: none here"), "card: none here"])
def test_reasons_are_read_from_reports(where: tuple[str, int, str] | str) -> None:
    report = pytest.TestReport("a", ("file.py", 3, "a"), {}, "skipped", where, "call")
    assert skip_reason(report) == "card: none here"
