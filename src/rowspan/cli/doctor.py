"""`rowspan doctor`: reports what is wrong with this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Annotated

import typer

from rowspan.cli.terminal import page_width
from rowspan.errors import UsageError
from rowspan.plan.split_mode import SplitMode

if TYPE_CHECKING:
    from rowspan.rig.doctor import CheckVerdict, Diagnosis
    from rowspan.rig.root import Root

LOG_LINES = 5  # log lines shown for a finding; --json has more


class BaselineAction(StrEnum):
    SAVE = "save"
    CHECK = "check"


def doctor(
    check: Annotated[str | None, typer.Argument(help="One check to explain, such as pcie.aer.")] = None,
    split_mode: Annotated[
        SplitMode, typer.Option("--split-mode", "-sm", help="Rank findings by what this way to split needs.")
    ] = SplitMode.LAYER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every check, with all it read.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print Markdown for a forum, without names, serials and addresses.")
    ] = False,
    try_cards: Annotated[
        bool,
        typer.Option(
            "--probe", help="Also send data between ranks, and between cards, and compare: seconds, with cards minutes."
        ),
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Name also the checks that do not apply here.")] = False,
    baseline: Annotated[
        BaselineAction | None,
        typer.Option("--baseline", help="Measure this machine and save it; or measure again and compare."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What --baseline measures with. [default: smollm2:135m]")
    ] = None,
    root: Annotated[Path, typer.Option("--root", help="Folder of a recorded machine; / is this one.")] = Path("/"),
) -> None:
    """Look for what breaks such machines: evidence, symptom, fix. Changes nothing and needs no root.

    Exits with 1 if something that the split depends on is broken or slow, or slower than the baseline that it is
    compared with; with 2 for a wrong request; else with 0. Notes, and what could not be read, are no reason for a 1.
    """
    from rowspan.cli.open_root import open_root

    if report and as_json:
        raise UsageError("--report and --json exclude each other.", fix="Ask for one of them.")
    machine = open_root(root)
    if baseline is not None:
        from rowspan.cli.bench.baseline import check_baseline, save_baseline

        if machine.recorded:
            raise UsageError("A recorded machine cannot be measured.", fix="Leave --root or --baseline out.")
        (save_baseline if baseline is BaselineAction.SAVE else check_baseline)(model)
        return
    if model is not None:
        raise UsageError("--model goes with --baseline.", fix="Add --baseline save, or leave it out.")
    diagnosis = _examine(machine, split_mode, try_cards, check)
    if as_json:
        typer.echo(json.dumps(diagnosis.to_dict(), indent=2))
    elif report:
        _print_report(diagnosis, machine)
    elif check is not None:
        _explain(diagnosis)
    else:
        _show(diagnosis, show_all)
    raise typer.Exit(diagnosis.exit_code)


def _examine(machine: Root, split_mode: SplitMode, try_cards: bool, only: str | None) -> Diagnosis:
    from rowspan.kernels.isa import available_isas
    from rowspan.rig.checks import all_checks
    from rowspan.rig.copies import try_copies
    from rowspan.rig.doctor import examine

    if try_cards and machine.recorded:
        raise UsageError("A recorded machine has no cards to try.", fix="Leave --root or --probe out.")
    checks = all_checks()
    if only is not None:
        ids = [check.id for check in checks]
        checks = [check for check in checks if check.id == only.lower()]
        if not checks:
            raise UsageError(f"There is no check {only!r}.", fix=f"Choose one of {', '.join(ids)}.")
    kernels = None if machine.recorded else tuple(available_isas())
    if not try_cards:
        return examine(machine, checks, split_mode, kernels=kernels)
    from functools import partial

    from rowspan.comm.probing.each_transport import probe_transport
    from rowspan.comm.probing.trusted import forget
    from rowspan.kernels.isa import native_module

    forget()  # engines that start after this find out anew, too
    transports = partial(probe_transport, native=native_module())
    return examine(machine, checks, split_mode, kernels=kernels, copies=try_copies, transports=transports)


def _print_report(diagnosis: Diagnosis, machine: Root) -> None:
    import importlib.metadata

    from rowspan.rig.markdown_report import report
    from rowspan.rig.redact import Redactor

    typer.echo(Redactor(machine)(report(diagnosis, importlib.metadata.version("rowspan"))), nl=False)


def _show(diagnosis: Diagnosis, show_all: bool) -> None:
    """The summary comes first: a line for each finding, then what each is about."""
    from rowspan.rig.check import CheckState
    from rowspan.rig.markdown_report import summary

    page = _Page()
    findings = diagnosis.of(CheckState.FINDING)
    page.paragraph(summary(diagnosis))
    for verdict in findings:
        aside = "" if verdict.concerns else f" (matters to {verdict.check.need} only)"
        page.title(verdict.impact.name, f"{verdict.title}{aside}", verdict.check.id)
    rest = {CheckState.UNKNOWN: ("Unknown", "yellow"), CheckState.PASS: ("Passed", "green")}
    rest[CheckState.NOT_TRIED] = ("Not tried", "bright_black")
    if show_all:
        rest[CheckState.NOT_APPLICABLE] = ("Not here", "bright_black")
    for state, (word, color) in rest.items():
        ids = [verdict.check.id for verdict in diagnosis.of(state)]
        if ids:
            page.block(word, [", ".join(ids)], color)
    typer.echo()
    headings = (
        (True, f"What split mode {diagnosis.split} suffers from"),
        (False, f"Also found; split mode {diagnosis.split} on this machine does not depend on it"),
    )
    for concerns, heading in headings:
        chosen = [verdict for verdict in findings if verdict.concerns is concerns]
        if chosen:
            page.paragraph(heading, underline=True)
            typer.echo()
        for verdict in chosen:
            _show_finding(page, verdict, diagnosis.rig.system.family)
    unknown = diagnosis.of(CheckState.UNKNOWN)
    if unknown:
        page.paragraph("Unknown, because it could not be read", underline=True)
        typer.echo()
        for verdict in unknown:
            page.block(verdict.check.id, [_reason(verdict)], "yellow")
        typer.echo()
    page.paragraph("`rowspan doctor CHECK` explains one check.")


def _explain(diagnosis: Diagnosis) -> None:
    """One check, and how it ended here."""
    from rowspan.rig.check import CheckState

    page = _Page()
    (verdict,) = diagnosis.verdicts
    check, state = verdict.check, verdict.outcome.state
    if state is CheckState.FINDING:
        _show_finding(page, verdict, diagnosis.rig.system.family)
        return
    page.title(state.upper(), check.title)
    page.block("Check", [f"{check.id}, sureness {check.sureness}, matters to {check.need}"])
    page.block("Here", [_reason(verdict)])
    page.block("Reads", check.reads)
    page.block("Healthy", [check.healthy])
    page.block("Symptom", [check.symptom, *(f"“{error}”" for error in check.errors)])
    page.block("Fix", [check.fix.text])
    page.block("Sources", check.sources)


def _reason(verdict: CheckVerdict) -> str:
    return " ".join((*(f"{line}." for line in verdict.outcome.evidence), verdict.outcome.fix)).strip()


def _show_finding(page: _Page, verdict: CheckVerdict, family: str | None) -> None:
    check, outcome = verdict.check, verdict.outcome
    page.title(verdict.impact.name, verdict.title)
    page.block("Check", [f"{check.id}, sureness {check.sureness}, matters to {check.need}"])
    page.block("Evidence", outcome.evidence)
    page.block("Log", [str(hit) for hit in outcome.hits[-LOG_LINES:]])
    page.block("Healthy", [check.healthy])
    page.block("Symptom", [check.symptom, *(f"“{error}”" for error in check.errors)])
    page.block("Fix", [verdict.fix])
    for name, lines in verdict.commands_for(family).items():
        page.commands(lines, name if family is None else "")
    page.block("Sources", check.sources)
    typer.echo()


class _Page:
    """Text in two columns, a label and what it says, as wide as the terminal. Commands are not broken, so that they can
    be copied.

    It uses plain escape codes, not rich, which would take a fifth of the command's time.
    """

    LABEL = 14

    def __init__(self) -> None:
        self._width = page_width()

    def paragraph(self, text: str, *, underline: bool = False) -> None:
        typer.secho(fill(text, self._width), bold=True, underline=underline or None)

    def title(self, impact: str, title: str, check: str = "") -> None:
        color = {"BREAKS": "red", "SLOW": "yellow", "PASS": "green", "UNKNOWN": "yellow"}.get(impact, "cyan")
        mark = typer.style(f"{impact:<{self.LABEL - 1}} ", fg=color, bold=True)
        width = max(20, self._width - self.LABEL)
        for piece in wrap(f"{check}: {title}" if check else title, width, subsequent_indent="  "):
            typer.echo(f"{mark}{typer.style(piece, bold=not check)}")
            mark = " " * self.LABEL

    def block(self, label: str, lines: Sequence[str], color: str | None = None) -> None:
        width = max(20, self._width - self.LABEL)
        for line in lines:
            for piece in wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False):
                typer.echo(typer.style(f"{label:<{self.LABEL - 1}} ", fg=color, bold=color is None) + piece)
                label = ""

    def commands(self, lines: Sequence[str], distribution: str) -> None:
        for line in lines:
            told = typer.style(f"{distribution}: ", dim=True) if distribution else ""
            typer.echo(" " * self.LABEL + told + typer.style(f"$ {line}", fg="cyan"))
