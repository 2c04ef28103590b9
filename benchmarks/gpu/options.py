"""The command line of gpu_vs_llamacpp.py."""

from __future__ import annotations

import argparse
from pathlib import Path


def parse_options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llamacpp-source", type=Path, help="its sources: a folder or an archive that holds them")
    parser.add_argument("--llamacpp-binaries", type=Path, help="a folder of built programs instead")
    parser.add_argument("--llamacpp-args", type=str.split, default=[], help="further options of its programs")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", help="that Rowspan computes in; its own choice for the device, if not given")
    parser.add_argument(
        "--models", choices=("8b", "1b", "tiny"), default="8b", help="shape of the large models; tiny: less of all"
    )
    parser.add_argument("--smollm2", type=Path, help="a GGUF file of it; else a model of its shape, of random weights")
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), default=[""], help="only those whose name holds one"
    )
    parser.add_argument("--batch", type=int, help="most tokens in a step, on both sides; 2048 on cards, else 512")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all of it")
    parser.add_argument("--build-minutes", type=float, default=6.0, help="from the start until llama.cpp must be built")
    parser.add_argument("--tune", action="store_true", help="tune Rowspan's kernels for these models first")
    parser.add_argument("--tune-share", type=float, default=0.3, help="of the time that is left then")
    parser.add_argument("--rounds", type=int, default=99, help="at most")
    parser.add_argument("--repetitions", "-r", type=int, default=3, help="in a turn")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"), help="for models and llama.cpp; kept")
    parser.add_argument("--output", "-o", type=Path, default=Path("gpu_vs_llamacpp.json"))
    parser.add_argument("--verbose", "-v", action="store_true", help="where steps fail")
    options = parser.parse_args()
    options.folder = options.folder.absolute()
    options.batch = options.batch or (2048 if options.device.startswith("cuda") else 512)
    return options
