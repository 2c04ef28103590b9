"""The engine says what it said when `tests/data/answers.json` was recorded, to the last bit of its log-probabilities.

A commit that means to change bits records them again: see `kit.answers`. Any other one must not.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from kit.answers import Case, Record, answer, cases, circumstances, file_digest, host_isas, write_model

from rowspan.kernels.isa import TORCH

RECORD = Record.read()
HERE = circumstances()
CASES = [case for case in cases() if case.isa in {*RECORD.isas, *host_isas()}]
file_digest = cache(file_digest)


def why_not(isa: str) -> str | None:
    """Why answers of an instruction set cannot be compared; None if they can."""
    if isa not in host_isas():
        return f"{isa}: not compared, this machine lacks it"
    if isa not in RECORD.isas:
        return f"{isa}: not compared, the recording machine lacked it"
    # Its libraries choose their kernels by processor.
    if isa == TORCH and any(HERE[key] != RECORD.circumstances[key] for key in ("processor", "torch")):
        return f"{TORCH}: not compared, recorded with another processor or version"
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=[pytest.mark.heavy] * case.heavy) for case in CASES]
)
def test_answers_are_those_recorded(case: Case, folder: Path, request: pytest.FixtureRequest) -> None:
    if reason := why_not(case.isa):
        pytest.skip(reason)
    path = write_model(case.model, folder, lambda: Path(request.getfixturevalue("smollm2_path")))
    assert file_digest(path) == RECORD.models[case.model], "the kit makes another model than it did for the record"
    for place, (now, recorded) in enumerate(zip(answer(path, case), RECORD.of(case), strict=True)):
        difference = recorded.difference(now)
        assert not difference, f"prompt {place}, recorded and now, {difference}; {RECORD.circumstances}, here {HERE}"


def test_every_case_of_a_recorded_set_is_recorded() -> None:
    assert set(RECORD.cases) == {str(case) for case in cases() if case.isa in RECORD.isas}
