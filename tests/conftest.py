"""Fixtures for the whole tree."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from kit.native_isas import EMULATED, NATIVE
from kit.uncovered import known_isas, skip_reason, uncovered_line

from rowspan import hub

# Inputs are fresh in every run; how long one takes says nothing on a busy machine.
settings.register_profile("rowspan", deadline=None)
settings.load_profile("rowspan")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line on what this host could not cover. Where tests run in several processes, only their parent has this."""
    reasons = [skip_reason(report) for report in terminalreporter.getreports("skipped")]
    if line := uncovered_line(known_isas(), NATIVE + EMULATED, reasons):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session", autouse=True)
def _own_findings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests find out of this machine's transports and cards is not kept for its user, nor is his used; nor are
    his conversations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWSPAN_PROBES", str(tmp_path_factory.mktemp("probes") / "probes.json"))
        patch.setenv("ROWSPAN_TUNING", str(tmp_path_factory.mktemp("tuning") / "tuning.json"))
        patch.setenv("ROWSPAN_CONVERSATIONS", str(tmp_path_factory.mktemp("console") / "conversations.sqlite"))
        yield


@pytest.fixture(scope="session")
def smollm2_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, Q4_1, as GGUF: fetched into the ordinary cache if it is not there yet, once for all of the
    processes that tests run in."""
    with (tmp_path_factory.getbasetemp().parent / "fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return hub.resolve("smollm2:135m").path
