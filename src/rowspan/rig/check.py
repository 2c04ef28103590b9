"""The types of the doctor's checks and of their answers. Every file of `checks/` holds one check."""

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
    """How a check ended. FINDING: there is evidence that something is wrong. UNKNOWN: the evidence could not be
    read.
    """

    FINDING = "finding"
    UNKNOWN = "unknown"
    PASS = "pass"
    NOT_TRIED = "not tried"  # it takes --probe
    NOT_APPLICABLE = "not applicable"


class Impact(IntEnum):
    """How much a finding hurts those whom it concerns."""

    NOTE = 1  # worth knowing, but harmless
    SLOW = 2
    BREAKS = 3  # crashes, hangs, wrong output, or nothing runs


class Need(StrEnum):
    """Whom a check concerns: everybody, or users of one kind of split."""

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
    """The advice that removes a finding's cause. commands: shell commands by distribution family (debian, which Ubuntu
    is, fedora, arch), or under "" for all distributions.
    """

    text: str
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def commands_for(self, family: str | None) -> dict[str, tuple[str, ...]]:
        """The commands for one distribution family; those for every family, by name, if the family is unknown."""
        known = {family, ""} if family in self.commands else set(self.commands) if family is None else {""}
        return {name: lines for name, lines in self.commands.items() if name in known}


@dataclass(frozen=True)
class Outcome:
    """A check's answer.

    evidence: texts that say what was read, and where.
    hits: matching lines of the kernel's log.
    impact: set only if it differs from the impact that the check declares.
    fix: for an unknown outcome, how the user can make it known; for a finding, advice that fits it better than the
        check's own.
    title: what was found, if the check's title says more than that.
    commands: shell commands that fit this machine, instead of the check's own.
    """

    state: CheckState
    evidence: tuple[str, ...]
    hits: tuple[Hit, ...] = ()
    impact: Impact | None = None
    fix: str = ""
    title: str = ""
    commands: tuple[str, ...] = ()


def passed(*evidence: str) -> Outcome:
    return Outcome(CheckState.PASS, evidence)


def found(
    *evidence: str,
    hits: tuple[Hit, ...] = (),
    impact: Impact | None = None,
    fix: str = "",
    title: str = "",
    commands: tuple[str, ...] = (),
) -> Outcome:
    return Outcome(CheckState.FINDING, evidence, hits, impact, fix, title, commands)


class DoesNotApply(Exception):
    """A check raises this if the machine has nothing that it could look at. The text says why."""


class NotTried(Exception):
    """A check raises this if it had to do something for its answer, and was not told to."""


@dataclass(frozen=True)
class Machine:
    """Everything that checks may look at.

    patterns: the kernel log's lines that each check looks for, by the check's id.
    kernels: instruction sets that Rowspan's CPU kernels use here; None: `root` is not this machine.
    copies: tries copies between cards, see `rig.copies`; None: copies must not be tried.
    transports: tries one transport between ranks on the given number of cards, and returns each trial's name with its
        failure, "" for success; None: transports must not be tried.
    """

    root: Root
    rig: Rig
    patterns: Mapping[str, tuple[LogPattern, ...]]
    kernels: tuple[str, ...] | None = None
    copies: Callable[[], Mapping[str, bool]] | None = None
    transports: Callable[[Transport, int], Mapping[str, str]] | None = None

    def cards(self, vendor: str | None = None, least: int = 1) -> tuple[Card, ...]:
        """The compute cards of one vendor, or of every vendor.

        Raises:
            DoesNotApply: there are fewer cards than `least`.
            Unreadable: the cards cannot be listed.
        """
        if not self.rig.cards and self.rig.unread:
            raise Unreadable(self.rig.unread[0].split(":")[0], "missing", "In a container, mount /sys.")
        cards = self.rig.of(vendor) if vendor else self.rig.compute_cards
        if len(cards) < least:
            name = f"{vendor} card" if vendor else "card"
            raise DoesNotApply(f"no {name}" if not cards else f"fewer than {least} {name}s")
        return cards

    def hits(self, check: str) -> Hits:
        """The lines of the kernel's log that match a check's patterns. Raises Unreadable."""
        if isinstance(self._log, Unreadable):
            raise self._log
        return self._log[check]

    @cached_property
    def _log(self) -> Mapping[str, Hits] | Unreadable:
        """The kernel log's matching lines by check, read once for all checks; or the error that prevents reading."""
        try:
            return scan(blocks(self.root), self.patterns)
        except Unreadable as error:
            return error

    def card_at(self, address: str) -> Card | None:
        """The card at a PCI address, which may lack its function number."""
        return next((card for card in self.rig.cards if card.address.startswith(address)), None)


@dataclass(frozen=True)
class Check:
    """One fault that breaks or slows multi-GPU rigs, and how to find it.

    reads: files and commands that the check looks at.
    healthy: what these say on a healthy machine.
    symptom: what the user notices.
    errors: exact error messages that other programs print because of this fault.
    log: patterns of lines to look for in the kernel's log.
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
        """Run the check; evidence that cannot be read makes the outcome UNKNOWN."""
        try:
            return self.look(machine)
        except Unreadable as error:
            return Outcome(CheckState.UNKNOWN, (str(error),), fix=error.fix)
        except NotTried as reason:
            return Outcome(CheckState.NOT_TRIED, (str(reason),))
        except DoesNotApply as reason:
            return Outcome(CheckState.NOT_APPLICABLE, (str(reason),))


def boot_option(option: str) -> dict[str, tuple[str, ...]]:
    """Commands by distribution that add an option to the kernel's command line."""
    edit = f"""sudo sed -i 's/^GRUB_CMDLINE_LINUX_DEFAULT="/&{option} /' /etc/default/grub"""
    return {
        "debian": (edit, "sudo update-grub && sudo reboot"),
        "fedora": (f"sudo grubby --update-kernel=ALL --args={option} && sudo reboot",),
        "arch": (edit, "sudo grub-mkconfig -o /boot/grub/grub.cfg && sudo reboot"),
    }
