"""The doctor: runs every check on one machine, and ranks the answers by what the chosen split mode needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowspan.plan.routes import Transport
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.check import Check, CheckState, Impact, Machine, Outcome, Sureness
from rowspan.rig.probe.rig import Rig, probe
from rowspan.rig.root import Root

STATES = tuple(CheckState)
SURENESSES = tuple(Sureness)


@dataclass(frozen=True)
class CheckVerdict:
    """A check with its outcome. concerns: whether the chosen split mode depends on what was checked."""

    check: Check
    outcome: Outcome
    concerns: bool

    @property
    def impact(self) -> Impact:
        return self.outcome.impact or self.check.impact

    @property
    def title(self) -> str:
        return self.outcome.title or self.check.title

    @property
    def fix(self) -> str:
        """The advice of a finding; or how what is unknown becomes known."""
        return self.outcome.fix or (self.check.fix.text if self.outcome.state is CheckState.FINDING else "")

    def commands_for(self, family: str | None) -> dict[str, tuple[str, ...]]:
        """A finding's shell commands, by distribution family: see `Fix.commands_for`."""
        return {"": self.outcome.commands} if self.outcome.commands else self.check.fix.commands_for(family)

    @property
    def rank(self) -> tuple[Any, ...]:
        """A sort key: findings first, among them those that concern the split, that break things, that are sure."""
        order = (STATES.index(self.outcome.state), not self.concerns, -self.impact)
        return (*order, SURENESSES.index(self.check.sureness), self.check.id)

    def to_dict(self, family: str | None) -> dict[str, Any]:
        """The verdict as plain data, with fix commands for the machine's distribution family only."""
        check, outcome = self.check, self.outcome
        found = outcome.state is CheckState.FINDING
        return {
            "id": check.id,
            "title": self.title,
            "state": outcome.state.value,
            "concerns_this_split": self.concerns,
            "needed_by": check.need.value,
            "impact": self.impact.name.lower(),
            "sureness": check.sureness.value,
            "reads": list(check.reads),
            "healthy": check.healthy,
            "evidence": list(outcome.evidence),
            "log": [{"time": hit.time, "cards": list(hit.addresses), "line": hit.message} for hit in outcome.hits],
            "symptom": check.symptom,
            "errors": list(check.errors),
            "fix": self.fix,
            "commands": {name: list(lines) for name, lines in self.commands_for(family).items()} if found else {},
            "sources": list(check.sources),
        }


@dataclass(frozen=True)
class Diagnosis:
    """All verdicts of one machine, sorted by rank."""

    rig: Rig
    split: SplitMode
    verdicts: tuple[CheckVerdict, ...]

    def of(self, state: CheckState) -> list[CheckVerdict]:
        return [verdict for verdict in self.verdicts if verdict.outcome.state is state]

    @property
    def exit_code(self) -> int:
        """The exit status: 1 if something that the split mode depends on is broken or slow; notes and unknowns do not
        count.
        """
        return int(any(found.concerns and found.impact > Impact.NOTE for found in self.of(CheckState.FINDING)))

    def to_dict(self) -> dict[str, Any]:
        family = self.rig.system.family
        return {"split_mode": self.split.value, "checks": [verdict.to_dict(family) for verdict in self.verdicts]}


def examine(
    root: Root,
    checks: Sequence[Check],
    split: SplitMode,
    *,
    kernels: tuple[str, ...] | None = None,
    copies: Callable[[], Mapping[str, bool]] | None = None,
    transports: Callable[[Transport, int], Mapping[str, str]] | None = None,
) -> Diagnosis:
    """Run every check; `Machine` explains the arguments."""
    rig = probe(root)
    machine = Machine(root, rig, {check.id: check.log for check in checks if check.log}, kernels, copies, transports)
    n_cards = len(rig.compute_cards)
    verdicts = (CheckVerdict(check, check.examine(machine), check.need.concerns(split, n_cards)) for check in checks)
    return Diagnosis(rig, split, tuple(sorted(verdicts, key=lambda verdict: verdict.rank)))
