"""Check: llama.cpp was not built by a compiler that translates AMX wrongly."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, DoesNotApply, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Missing, Unreadable

COMMAND = "llama-server"
LEAST = 13


def look(machine: Machine) -> Outcome:
    if not machine.rig.cpu.flags:
        raise Unreadable("/proc/cpuinfo", "it names no instruction sets")
    if "amx_int8" not in machine.rig.cpu.flags:
        raise DoesNotApply("the processor has no AMX")
    command = _program(machine)
    try:
        told = machine.root.command(command, "--version")
    except Missing:
        raise DoesNotApply("llama.cpp is not installed") from None
    built = re.search(r"built with (.+?) for ", told)
    numbers = re.findall(r"(\d+)\.\d+(?:\.\d+)?", built[1]) if built else []
    if built is None or not numbers:
        raise Unreadable(f"{COMMAND} --version", "it does not tell its compiler")
    evidence = f"{COMMAND} --version: built with {built[1]}"
    gcc = not re.search(r"clang", built[1], re.IGNORECASE)
    return found(evidence) if gcc and int(numbers[-1]) < LEAST else passed(evidence)


def _program(machine: Machine) -> str:
    """Where `rowspan serve --backend llamacpp` finds it first: in the folder that the environment names."""
    try:
        folder = machine.root.environment.get("ROWSPAN_LLAMACPP_DIR", "")
    except Missing:
        folder = ""
    if machine.root.recorded or not folder:
        return COMMAND
    places = (f"{folder}/{inner}{COMMAND}" for inner in ("", "bin/", "build/bin/"))
    return next((place for place in places if machine.root.has(place)), COMMAND)


CHECK = Check(
    id="llamacpp.amx",
    title="llama.cpp's compiler on an AMX machine",
    reads=("/proc/cpuinfo", f"{COMMAND} --version"),
    healthy=f"built by clang, or by gcc {LEAST} or newer",
    symptom="llama.cpp stops at the first matrix product.",
    errors=("Illegal instruction (core dumped)",),
    fix=Fix(
        "Build it with clang or a newer gcc.",
        {
            "": ("cmake -B build -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ && cmake --build build",),
            "debian": ("sudo apt install clang",),
            "fedora": ("sudo dnf install clang",),
            "arch": ("sudo pacman -S clang",),
        },
    ),
    need=Need.ANY,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://github.com/ggml-org/llama.cpp",),
    look=look,
)
