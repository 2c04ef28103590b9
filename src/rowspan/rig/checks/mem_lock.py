"""Check: a program may pin enough memory for transfers between host and cards."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Unreadable

LIMITS = "/proc/self/limits"


def look(machine: Machine) -> Outcome:
    machine.cards()
    line = re.search(r"^Max locked memory\s+(\S+)\s+(\S+)", machine.root.text(LIMITS), re.MULTILINE)
    if line is None:
        raise Unreadable(LIMITS, "it does not tell the locked memory")
    evidence = f"{LIMITS}: locked memory: {line[1]} (at most {line[2]})"
    return passed(evidence) if line[1] == "unlimited" else found(evidence)


CHECK = Check(
    id="mem.lock",
    title="Memory that may be pinned",
    reads=(LIMITS,),
    healthy="unlimited",
    symptom="Pinning memory for transfers fails, where a program asks for more than this.",
    fix=Fix(
        "Raise it for this user and log in again; for a service set LimitMEMLOCK=infinity, for a container --ulimit "
        "memlock=-1.",
        {
            "": (
                "printf '%s - memlock unlimited\\n' \"$USER\" | sudo tee /etc/security/limits.d/memlock.conf",
                "docker run --ulimit memlock=-1 …",
            )
        },
    ),
    need=Need.SEVERAL,
    impact=Impact.NOTE,
    sureness=Sureness.MEDIUM,
    sources=("https://man7.org/linux/man-pages/man5/limits.conf.5.html",),
    look=look,
)
