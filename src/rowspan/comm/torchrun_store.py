"""A program that leaves a port in torchrun's store, or waits for one there, and prints it: `python -m
rowspan.comm.torchrun_store ADDRESS PORT KEY HOSTS [VALUE]`. It is a process of its own because the server's process
never imports torch.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

WAIT = timedelta(minutes=5)


def main() -> None:
    address, port, key, n_hosts, *value = sys.argv[1:]
    store = TCPStore(address, int(port), int(n_hosts), is_master=False, timeout=WAIT, wait_for_workers=False)
    if value:
        store.set(key, value[0])
    print(store.get(key).decode())


if __name__ == "__main__":
    main()
