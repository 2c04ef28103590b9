"""Stands in for llama-bench and llama-batched-bench: gives a row for all that it is asked for, at 1000 tokens a second.

python fake_llama_bench.py -p 32,96 -n 16 -d 0 -r 2 -o json
python fake_llama_bench.py -npp 8 -ntg 16 -npl 4,4 --output-format jsonl
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

RATE = 1000.0


def install(folder: Path) -> Path:
    """Both programs, in a folder of their own."""
    folder.mkdir()
    for name in ("llama-bench", "llama-batched-bench"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__)}" "$@"\n')
        program.chmod(0o755)
    return folder


def main() -> None:
    if "--version" in sys.argv:
        print("version: fake", file=sys.stderr)
        return
    asked = dict(pairwise(sys.argv[1:]))
    if "-npl" in asked:
        for number in asked["-npl"].split(","):
            print(json.dumps({"pl": int(number), "speed_tg": RATE}))
        return
    tests = [(int(n), 0) for n in asked["-p"].split(",")] + [(0, int(n)) for n in asked["-n"].split(",")]
    samples = {"n_depth": int(asked["-d"]), "samples_ts": [RATE] * int(asked["-r"])}
    print(json.dumps([{"n_prompt": p, "n_gen": n, **samples} for p, n in tests if p or n]))


if __name__ == "__main__":
    main()
