"""Check: this user may open AMD's devices."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.probe.reader import Reader

KFD = "/dev/kfd"
GROUPS = ("render", "video")


def look(machine: Machine) -> Outcome:
    cards = machine.cards("AMD")
    devices = (KFD, *(card.render_node for card in cards if card.render_node))
    state = {path: _state(machine, path) for path in devices}
    evidence = [f"{path}: {text}" for path, text in state.items()]
    if all(text == "may be read and written" for text in state.values()):
        return passed(*evidence)
    refused = any(text == "not permitted" for text in state.values())
    return found(*evidence, *(_membership(Reader(machine.root)) if refused else ()))


def _state(machine: Machine, path: str) -> str:
    if not machine.root.has(path):
        return "missing"
    return "may be read and written" if machine.root.may_open(path) else "not permitted"


def _membership(reader: Reader) -> list[str]:
    """Texts that say which of the needed groups this process belongs to."""
    own = re.search(r"^Groups:\s*([\d ]*)$", reader.text("/proc/self/status") or "", re.MULTILINE)
    listed = reader.text("/etc/group")
    if own is None or listed is None:
        return []
    numbers = dict(re.findall(r"^([^:]+):[^:]*:(\d+):", listed, re.MULTILINE))
    held = own[1].split()
    return [f"group {name}: {'member' if numbers.get(name) in held else 'not a member'}" for name in GROUPS]


CHECK = Check(
    id="amd.perms",
    title="Permission to use the cards",
    reads=(KFD, "/dev/dri/renderD*", "/proc/self/status", "/etc/group"),
    healthy="this user may read and write them",
    symptom="Programs find no card, or stop at once.",
    errors=(
        "Unable to open /dev/kfd read-write: Permission denied",
        "Unable to open /dev/kfd read-write: No such file or directory",
    ),
    fix=Fix(
        "Join the groups and log in again. In a container, hand the devices in: --device /dev/kfd --device /dev/dri.",
        {"": ("sudo usermod -aG render,video $USER", "docker run --device /dev/kfd --device /dev/dri …")},
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://rocm.docs.amd.com/projects/install-on-linux/en/latest/install/prerequisites.html",),
    look=look,
)
