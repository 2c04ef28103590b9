"""The report for forums: it says what was found, and not whose machine it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.recorded_rig import recorded_rigs, unpack

from rowspan.plan.split_mode import SplitMode
from rowspan.rig.checks import all_checks
from rowspan.rig.doctor import examine
from rowspan.rig.markdown_report import report
from rowspan.rig.redact import Redactor
from rowspan.rig.root import Root

SECRETS = {
    "host": "wintermute",
    "full host name": "wintermute.lab.example.org",
    "user": "mmustermann",
    "another user": "guest.two",
    "serial": "692251001234",
    "unique id": "b1c2d3e4f5a60718",
    "uuid": "GPU-5a1b2c3d-1111-2222-3333-444455556666",
    "mac": "3c:7c:3f:aa:bb:cc",
    "ipv4": "192.168.17.23",
    "ipv6": "fe80::3e7c:3fff:feaa:bbcc",
    "long ipv6": "2001:db8:0:1:2:3:4:5",
    "mail": "m.mustermann@example.org",
}


@pytest.fixture
def machine(tmp_path: Path) -> Root:
    """One whose names, serials and addresses are all over the kernel's log."""
    folder = unpack("dual-7900xtx-mes-errors", tmp_path)
    card = folder / "sys/bus/pci/devices/0000:03:00.0"
    (card / "serial_number").write_text(SECRETS["serial"])
    (card / "unique_id").write_text(SECRETS["unique id"])
    (folder / "proc/sys/kernel/hostname").write_text(SECRETS["host"] + "\n")
    (folder / "etc/hostname").write_text(SECRETS["full host name"] + "\n")
    (folder / "etc/passwd").write_text(
        "root:x:0:0::/root:\nguest.two:x:1001:1001::/home/guest.two:\nnobody:x:65534:0::/:\n"
    )
    (folder / "environ").write_text("USER=mmustermann\nHSA_OVERRIDE_GFX_VERSION=/home/mmustermann/x\n")
    log = folder / "log/kernel"
    with log.open("a") as file:
        file.write(
            f"2024-05-01T10:00:00+00:00 {SECRETS['host']} kernel: MES failed to respond to msg={SECRETS['mail']}\n"
        )
        for name in SECRETS:
            file.write(
                f"[ 9.5] amdgpu 0000:03:00.0: amdgpu: GPU reset begin! {name}: {SECRETS[name]}, serial: 4711-0815\n"
            )
    return Root(folder)


def text_of(root: Root, split: SplitMode = SplitMode.ROW) -> str:
    return report(examine(root, all_checks(), split), "1.2.3")


def test_planted_secrets_do_not_get_through(machine: Root) -> None:
    open_text = text_of(machine)
    assert sum(secret in open_text for secret in SECRETS.values()) >= 8  # the report would give them away
    text = Redactor(machine)(open_text)
    for secret in (*SECRETS.values(), "4711-0815", "mustermann"):
        assert secret.lower() not in text.lower()
    for kept in (
        "0000:03:00.0",
        "0000:23:00.0",
        "gfx1100",
        "Fedora Linux 42",
        "6.14.5-300.fc42.x86_64",
        "rowspan 1.2.3",
    ):
        assert kept in text


@given(
    before=st.sampled_from(" ('\"=/:[,\n"),
    after=st.sampled_from(" )'\",/;:]\n."),
    name=st.sampled_from(sorted(SECRETS)),
)
def test_they_do_not_get_through_beside_punctuation(
    before: str, after: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    for path, text in {
        "proc/sys/kernel/hostname": SECRETS["host"],
        "etc/hostname": SECRETS["full host name"],
        "etc/passwd": "mmustermann:x:1000:1000::/:\nguest.two:x:1001:1001::/:",
        "sys/bus/pci/devices/x/serial_number": SECRETS["serial"],
        "sys/bus/pci/devices/x/unique_id": SECRETS["unique id"],
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    assert SECRETS[name] not in Redactor(Root(folder))(f"x{before}{SECRETS[name]}{after}y")


@pytest.mark.parametrize("name", recorded_rigs())
def test_what_is_no_secret_stays(name: str, tmp_path: Path) -> None:
    root = Root(unpack(name, tmp_path))
    text = text_of(root)
    assert Redactor(root)(text) == text


def test_the_report_holds_every_finding_with_its_fix(tmp_path: Path) -> None:
    text = text_of(Root(unpack("dual-w7900-debian-no-p2p", tmp_path)))
    for check in ("amd.kcfg.p2p", "amd.p2p.links", "amd.iommu"):
        assert f"(`{check}`" in text
    assert "- /boot/config-6.1.0-18-amd64: not set: CONFIG_PCI_P2PDMA, CONFIG_HSA_AMD_P2P" in text
    assert "sudo update-grub && sudo reboot" in text  # for Debian
    assert "grubby" not in text  # which is Fedora's
    assert "https://github.com/ggml-org/llama.cpp/issues/9761" in text
    assert "- `pcie.acs`" in text.partition("### Unknown")[2]
    assert text.count("```") % 2 == 0
