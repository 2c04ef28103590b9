"""What a check is, and what it answers. Every file of `checks/` holds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property

from rowspan.plan.routes import Transport
from rowspan.plan.split_mode import SplitMode
from rowspan.rig.kernel_log import Hit, Hits, LogPattern, blocks, scan
from rowspan.rig.probe.cards import Card
from rowspan.rig.probe.rig import Rig
from rowspan.rig.root import Root, Unreadable


class CheckState(StrEnum):
    """FINDING: evidence that something is wrong. UNKNOWN: it could not be read, so nobody knows."""

    FINDING = "finding"
    UNKNOWN = "unknown"
    PASS = "pass"
    NOT_APPLICABLE = "not applicable"


class Impact(IntEnum):
    """How bad it is for whom it concerns."""

    NOTE = 1  # worth knowing
    SLOW = 2
    BREAKS = 3  # crashes, hangs, wrong output, or nothing runs


class Need(StrEnum):
    """Who depends on it."""

    ANY = "any use"
    SEVERAL = "several cards"  # split by layer or by row
    PEERS = "row split"  # cards that read each other's memory; a split by layer hardly needs that

    def concerns(self, split: SplitMode, n_cards: int) -> bool:
        if self is Need.ANY:
            return True
        modes = (SplitMode.LAYER, SplitMode.ROW) if self is Need.SEVERAL else (SplitMode.ROW,)
        return n_cards > 1 and split in modes


class Sureness(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True)
class Fix:
    """What to do. commands: by distribution (debian, which Ubuntu is, fedora, arch), or under "" for all."""

    text: str
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def commands_for(self, family: str | None) -> dict[str, tuple[str, ...]]:
        """Those of one distribution; of all, named, where it is not known."""
        known = {family, ""} if family in self.commands else set(self.commands) if family is None else {""}
        return {name: lines for name, lines in self.commands.items() if name in known}


@dataclass(frozen=True)
class Outcome:
    """A check's answer.

    evidence: what was read, and where. hits: lines of the kernel's log.
    impact: where it differs from what the check declares. fix: how an unknown could be known.
    """

    state: CheckState
    evidence: tuple[str, ...]
    hits: tuple[Hit, ...] = ()
    impact: Impact | None = None
    fix: str = ""


def passed(*evidence: str) -> Outcome:
    return Outcome(CheckState.PASS, evidence)


def found(*evidence: str, hits: tuple[Hit, ...] = (), impact: Impact | None = None) -> Outcome:
    return Outcome(CheckState.FINDING, evidence, hits, impact)


class DoesNotApply(Exception):
    """Raised by a check that has nothing to look at on this machine. Its text says why."""


@dataclass(frozen=True)
class Machine:
    """What checks look at.

    patterns: lines of the kernel's log to look for, by check.
    kernels: instruction sets that Rowspan's kernels run with here; None: not this machine.
    copies: tries copies between cards, see `rig.copies`; None: not to be tried.
    transports: tries one between ranks on so many cards: what was tried, and how it failed or ""; None: likewise.
    """

    root: Root
    rig: Rig
    patterns: Mapping[str, tuple[LogPattern, ...]]
    kernels: tuple[str, ...] | None = None
    copies: Callable[[], Mapping[str, bool]] | None = None
    transports: Callable[[Transport, int], Mapping[str, str]] | None = None

    def cards(self, vendor: str | None = None, least: int = 1) -> tuple[Card, ...]:
        """Cards that compute, of one vendor or of all.

        Raises:
            DoesNotApply: there are fewer than `least`.
            Unreadable: nobody can tell which there are.
        """
        if not self.rig.cards and self.rig.unread:
            raise Unreadable(self.rig.unread[0].split(":")[0], "missing", "In a container, mount /sys.")
        cards = self.rig.of(vendor) if vendor else self.rig.compute_cards
        if len(cards) < least:
            name = f"{vendor} card" if vendor else "card"
            raise DoesNotApply(f"no {name}" if not cards else f"fewer than {least} {name}s")
        return cards

    def hits(self, check: str) -> Hits:
        """Lines of the kernel's log that a check asked for. Raises Unreadable."""
        if isinstance(self._log, Unreadable):
            raise self._log
        return self._log[check]

    @cached_property
    def _log(self) -> Mapping[str, Hits] | Unreadable:
        """Read once, for all checks; or why it cannot be read."""
        try:
            return scan(blocks(self.root), self.patterns)
        except Unreadable as error:
            return error

    def card_at(self, address: str) -> Card | None:
        """The card whose address, perhaps without its function, this is."""
        return next((card for card in self.rig.cards if card.address.startswith(address)), None)


@dataclass(frozen=True)
class Check:
    """One thing that breaks such rigs.

    reads: files and commands. healthy: what they should say. symptom: what the user saw; errors: the exact texts.
    log: lines of the kernel's log to look for.
    """

    id: str
    title: str
    reads: tuple[str, ...]
    healthy: str
    symptom: str
    fix: Fix
    need: Need
    impact: Impact
    sureness: Sureness
    sources: tuple[str, ...]
    look: Callable[[Machine], Outcome]
    errors: tuple[str, ...] = ()
    log: tuple[LogPattern, ...] = ()

    def examine(self, machine: Machine) -> Outcome:
        """Its answer; what cannot be read is unknown."""
        try:
            return self.look(machine)
        except Unreadable as error:
            return Outcome(CheckState.UNKNOWN, (str(error),), fix=error.fix)
        except DoesNotApply as reason:
            return Outcome(CheckState.NOT_APPLICABLE, (str(reason),))


def boot_option(option: str) -> dict[str, tuple[str, ...]]:
    """Commands that add an option to the kernel's command line."""
    edit = f"""sudo sed -i 's/^GRUB_CMDLINE_LINUX_DEFAULT="/&{option} /' /etc/default/grub"""
    return {
        "debian": (edit, "sudo update-grub && sudo reboot"),
        "fedora": (f"sudo grubby --update-kernel=ALL --args={option} && sudo reboot",),
        "arch": (edit, "sudo grub-mkconfig -o /boot/grub/grub.cfg && sudo reboot"),
    }
