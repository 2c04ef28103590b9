"""Names of PCI devices, from the list that distributions install with pciutils or hwdata."""

from __future__ import annotations

from rowspan.rig.root import Root, Unreadable

LISTS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")


def device_name(root: Root, vendor: int, device: int) -> str | None:
    """A device's name in that list; None if there is no list, or no such entry. Format: https://pci-ids.ucw.cz/"""
    heading, entry = f"\n{vendor:04x}  ", f"\n\t{device:04x}  "
    for path in LISTS:
        try:
            text = "\n" + root.raw(path).decode(errors="replace")
        except Unreadable:
            continue
        _, _, section = text.partition(heading)
        for line in section.split("\n")[1:]:
            if line and line[0] not in "\t#":
                break  # the next vendor
            if line.startswith(entry[1:]):
                return line[len(entry) - 1 :].strip()
    return None
