"""Writes the doctor's findings as Markdown, to paste into a forum. Pass the text through `rig.redact` before it is
shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from rowspan.rig.check import CheckState
from rowspan.rig.doctor import CheckVerdict, Diagnosis
from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.rig import Rig

LOG_LINES = 10
GIB = 1 << 30


def report(diagnosis: Diagnosis, version: str) -> str:
    """The whole report.

    Args:
        version: Rowspan's version.
    """
    return "\n".join(_lines(diagnosis, version)) + "\n"


def summary(diagnosis: Diagnosis) -> str:
    """One line that counts the checks by how they ended."""
    counts = {state: len(diagnosis.of(state)) for state in CheckState}
    mattering = sum(verdict.concerns for verdict in diagnosis.of(CheckState.FINDING))
    return (
        f"Findings: {counts[CheckState.FINDING]}, of which {mattering} matter to split mode {diagnosis.split}; "
        f"{counts[CheckState.UNKNOWN]} unknown, "
        f"{counts[CheckState.PASS]} passed, {counts[CheckState.NOT_TRIED]} not tried (--probe), "
        f"{counts[CheckState.NOT_APPLICABLE]} not applicable."
    )


def _lines(diagnosis: Diagnosis, version: str) -> Iterator[str]:
    rig = diagnosis.rig
    yield "## Rig report"
    yield ""
    yield f"- rowspan {version}, split mode {diagnosis.split}"
    yield f"- {rig.system.distribution or 'unknown system'}, Linux {rig.system.kernel or 'unknown'}"
    yield f"- {rig.cpu.model}, {rig.cpu.cores} cores, {rig.memory.total / GIB:.0f} GiB memory"
    yield ""
    yield from _cards(rig)
    yield summary(diagnosis)
    for verdict in diagnosis.of(CheckState.FINDING):
        yield from _finding(verdict, rig.system.family)
    unknown = diagnosis.of(CheckState.UNKNOWN)
    if unknown:
        yield ""
        yield "### Unknown"
        yield ""
        yield from (f"- `{one.check.id}` {one.check.title}: {'; '.join(one.outcome.evidence)}" for one in unknown)
    yield ""
    yield f"Passed: {', '.join(f'`{one.check.id}`' for one in diagnosis.of(CheckState.PASS)) or 'none'}."


def _cards(rig: Rig) -> Iterator[str]:
    if not rig.cards:
        return
    yield "| card | address | architecture | memory | driver | link | lanes |"
    yield "|---|---|---|---|---|---|---|"
    for card in rig.cards:
        memory = "?" if card.memory_total is None else f"{card.memory_total / GIB:.1f} GiB"
        cells = (card.name, card.address, card.arch or "?", memory, card.driver or "?", _link(card), card.lanes)
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
    yield ""


def _link(card: Card) -> str:
    link = card.link
    if link is None:
        return "?"
    return f"{link.speed or '?'} GT/s x{link.width or '?'} of {link.best_speed or '?'} x{link.best_width or '?'}"


def _finding(verdict: CheckVerdict, family: str | None) -> Iterator[str]:
    check, outcome = verdict.check, verdict.outcome
    aside = "" if verdict.concerns else f", matters to {check.need} only"
    yield ""
    yield f"### {verdict.title} (`{check.id}`: {verdict.impact.name.lower()}, sureness {check.sureness}{aside})"
    yield ""
    yield "Evidence:"
    yield from (f"- {line}" for line in outcome.evidence)
    if outcome.hits:
        yield ""
        yield "```"
        yield from (str(hit) for hit in outcome.hits[-LOG_LINES:])
        yield "```"
    yield ""
    yield f"Healthy: {check.healthy}. Symptom: {check.symptom}"
    if check.errors:
        yield f"Users see: {', '.join(f'`{error}`' for error in check.errors)}"
    yield ""
    yield f"Fix: {verdict.fix}"
    commands = [line for lines in verdict.commands_for(family).values() for line in lines]
    if commands:
        yield "```sh"
        yield from commands
        yield "```"
    yield f"Sources: {', '.join(check.sources)}"
