"""A llama-server made from the package xllamacpp, which has one as a library.

`python -m rowspan.backends.llamacpp.xllamacpp_server` takes the options that `llamacpp_flags` gives, under
llama-server's names, and its `--help` lists those and no others, so that it is probed as any llama-server is.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from typing import Any

from rowspan.quant.cache_types import CacheKernels, cache_options

SPLIT_MODES = ("none", "layer", "row", "tensor")
FLASH = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    options = _parser().parse_args(arguments)
    import xllamacpp

    if options.version:
        info = xllamacpp.BUILD_INFO
        print(f"version: xllamacpp {xllamacpp.__version__} (build {info['build_number']}, commit {info['commit']})")
        return
    if options.list_devices:
        print("Available devices:")
        for device in xllamacpp.get_device_info():
            if device["name"] != "CPU":
                total, free = device["memory_total"] // MIB, device["memory_free"] // MIB
                print(f"  {device['name']}: {device['description']} ({total} MiB, {free} MiB free)")
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # also for the threads of the library
    server = xllamacpp.Server(_parameters(xllamacpp, options))
    print(f"listening on {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # its own end waits for answers that nobody reads any more


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("xllamacpp_server", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="store_true", help="show version and build info")
    parser.add_argument("--list-devices", action="store_true", help="print list of available devices and exit")
    parser.add_argument("--model", help="model path to load")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--parallel", type=int, default=1, help="number of server slots")
    parser.add_argument("--ctx-size", type=int, default=0, help="size of the context of all slots (0: from the model)")
    parser.add_argument("--no-kv-unified", action="store_true", help="each slot has its share of the context")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--ubatch-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=-1)
    parser.add_argument("--n-gpu-layers", type=int, default=-1, help="layers to store in VRAM (default: auto)")
    parser.add_argument("--main-gpu", type=int, default=0)
    parser.add_argument("--tensor-split", default="", help="fraction of the model for each card: 3,1")
    parser.add_argument("--flash-attn", default="auto", choices=list(FLASH))
    parser.add_argument("--fit", default="on", choices=["on", "off"])
    parser.add_argument("--split-mode", default="layer", choices=SPLIT_MODES)
    for name in ("--cache-type-k", "--cache-type-v"):
        parser.add_argument(name, default="f16", choices=cache_options(CacheKernels.LLAMACPP))
    return parser


def _parameters(xllamacpp: Any, options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = [options.host]
    params.port = options.port
    params.api_keys = [key] if (key := os.environ.get("LLAMA_API_KEY")) else []
    params.n_parallel = options.parallel
    params.n_ctx = options.ctx_size
    params.kv_unified = not options.no_kv_unified
    params.n_batch, params.n_ubatch = options.batch_size, options.ubatch_size
    params.n_gpu_layers, params.main_gpu = options.n_gpu_layers, options.main_gpu
    params.fit_params = options.fit == "on"
    params.split_mode = getattr(xllamacpp.llama_split_mode, f"LLAMA_SPLIT_MODE_{options.split_mode.upper()}")
    params.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{FLASH[options.flash_attn]}"
    )
    params.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_k.upper()}")
    params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.cache_type_v.upper()}")
    if options.threads > 0:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.tensor_split:
        shares = [float(share) for share in options.tensor_split.split(",")]
        params.tensor_split = shares + [0.0] * (len(params.tensor_split) - len(shares))
    return params


if __name__ == "__main__":
    main()
