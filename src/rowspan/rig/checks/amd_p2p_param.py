"""Check: the AMD driver's switch for copies between cards is on."""

from __future__ import annotations

from rowspan.rig.check import (
    Check,
    DoesNotApply,
    Fix,
    Impact,
    Machine,
    Need,
    Outcome,
    Sureness,
    boot_option,
    found,
    passed,
)

MODULE = "/sys/module/amdgpu"
PARAMETER = f"{MODULE}/parameters/pcie_p2p"


def look(machine: Machine) -> Outcome:
    machine.cards("AMD", least=2)
    if machine.root.has(f"{MODULE}/parameters") and not machine.root.has(PARAMETER):
        raise DoesNotApply("this amdgpu was built without peer-to-peer copies and has no such parameter")
    value = machine.root.text(PARAMETER)
    return passed(f"{PARAMETER}: {value}") if value == "Y" else found(f"{PARAMETER}: {value}")


CHECK = Check(
    id="amd.p2p.param",
    title="amdgpu.pcie_p2p",
    reads=(PARAMETER,),
    healthy="Y",
    symptom="The kernel could, but the driver does not let cards reach each other.",
    fix=Fix(
        "Boot with amdgpu.pcie_p2p=1, and look for amdgpu options below /etc/modprobe.d.",
        boot_option("amdgpu.pcie_p2p=1"),
    ),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=("https://docs.kernel.org/gpu/amdgpu/module-parameters.html",),
    look=look,
)
