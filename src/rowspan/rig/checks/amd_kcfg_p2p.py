"""Check: the kernel was built with the options that copies between AMD cards need."""

from __future__ import annotations

import re

from rowspan.rig.check import Check, Fix, Impact, Machine, Need, Outcome, Sureness, found, passed
from rowspan.rig.root import Unreadable

OPTIONS = ("CONFIG_PCI_P2PDMA", "CONFIG_HSA_AMD_P2P")
UNTIL_7_2 = "CONFIG_DMABUF_MOVE_NOTIFY"  # an option of its own before Linux 7.2


def look(machine: Machine) -> Outcome:
    ours = {card.address for card in machine.cards("AMD", least=2)}
    system = machine.rig.system
    path = f"/boot/config-{system.kernel}"
    try:
        text = machine.root.text(path)
    except Unreadable:
        path = "/proc/config.gz"
        text = machine.root.zipped_text(path)
    version = system.kernel_version
    wanted = OPTIONS if version and version >= (7, 2) else (*OPTIONS, UNTIL_7_2)
    values = {name: re.search(rf"^{name}=(\S+)$", text, re.MULTILINE) for name in wanted}
    lacking = [name for name, match in values.items() if match is None or match[1] != "y"]
    if lacking:
        evidence = f"{path}: not set: {', '.join(lacking)}"
        linked = all(peer.direct for peer in machine.rig.peers if peer.source in ours)
        return passed(evidence, "all cards are linked nevertheless") if linked else found(evidence)
    return passed(f"{path}: {', '.join(f'{name}=y' for name in wanted)}")


CHECK = Check(
    id="amd.kcfg.p2p",
    title="Kernel options for peer-to-peer copies",
    reads=("/boot/config-$(uname -r)", "/proc/config.gz"),
    healthy="CONFIG_PCI_P2PDMA, CONFIG_HSA_AMD_P2P and, before Linux 7.2, CONFIG_DMABUF_MOVE_NOTIFY are y",
    symptom="llama.cpp's row split crashes with a segmentation fault, or its output is garbled.",
    errors=("Segmentation fault in hipMemcpy2DAsync, called by ggml_cuda_Memcpy2DPeerAsync",),
    fix=Fix(
        "Boot a kernel that has the options: Ubuntu's has, and one can be built with them. Otherwise build llama.cpp "
        "with -DGGML_CUDA_NO_PEER_COPY=ON, or split by layer.",
        {
            "": ("cmake -B build -DGGML_HIP=ON -DGGML_CUDA_NO_PEER_COPY=ON",),
            "debian": ("grep -E 'PCI_P2PDMA|HSA_AMD_P2P|DMABUF_MOVE_NOTIFY' /boot/config-*",),
            "fedora": ("grep -E 'PCI_P2PDMA|HSA_AMD_P2P|DMABUF_MOVE_NOTIFY' /boot/config-*",),
            "arch": ("zgrep -E 'PCI_P2PDMA|HSA_AMD_P2P|DMABUF_MOVE_NOTIFY' /proc/config.gz",),
        },
    ),
    need=Need.PEERS,
    impact=Impact.BREAKS,
    sureness=Sureness.HIGH,
    sources=(
        "https://github.com/ggml-org/llama.cpp/issues/9761",
        "https://github.com/ggml-org/llama.cpp/issues/11509",
        "https://github.com/ggml-org/llama.cpp/issues/12012",
    ),
    look=look,
)
