"""Translates Rowspan's options into those of a llama-server."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

import psutil

from rowspan.backends.llamacpp.llamacpp_probe import Features, ListedCard
from rowspan.backends.protocol import Setup, UnsupportedOptionError
from rowspan.backends.refusal import refuse_given
from rowspan.errors import UsageError
from rowspan.model.spec import ModelSpec
from rowspan.plan.device import Device
from rowspan.plan.fit import CACHE_SHARE, model_position_bytes
from rowspan.plan.split_mode import SplitMode
from rowspan.quant.cache_types import CacheKernels, cache_type_for

REFUSED = {
    "dtype": "--dtype",
    "cache_tokens": "--cache-tokens",
    "gpu_memory_utilization": "--gpu-memory-utilization",
}
LEAST_CONTEXT = 512
ROW_BUFFERS = "SYCL"  # the one build that still splits matrices by `row`; the help of others lists it all the same


def flags(setup: Setup, features: Features, spec: ModelSpec | None) -> list[str]:
    """The command line behind the program's name, without host and port.

    Args:
        spec: the model's spec; None: it could not be read, so that its context is not chosen here.

    Raises:
        UnsupportedOptionError: llama.cpp, or this build of it, does not have an option.
    """
    refuse_given(setup, REFUSED, "llamacpp", "llama.cpp computes in types, and fills cards, as it finds best.")
    if setup.engine.sleep_level == 1:
        raise UnsupportedOptionError(
            "--sleep-level 1 cannot be had with --backend llamacpp.",
            why="llama-server has no way to keep weights in RAM.",
            fix="Leave it out, or use --backend native.",
        )
    refuse_given(setup, {"pooling": "--pooling"}, "llamacpp", "Embeddings come from the native engine only.")
    refuse_given(setup, {"guesses": "--spec"}, "llamacpp", "Tokens are guessed by the native engine only.")
    refuse_given(setup, {"stages": "--stages"}, "llamacpp", "llama.cpp has one stage: all cards share each layer.")
    config = setup.engine
    cards = used_cards(setup, features)
    _check_cards(setup, cards)
    words = ["--model", setup.model.location, "--parallel", str(config.parallel)]
    words += _device_flags(setup, cards, features)
    words += _context_flags(setup, cards, features, spec)
    for option, value in (("--cache-type-k", config.cache_type_k), ("--cache-type-v", config.cache_type_v)):
        if value is not None:
            words += [option, _cache_type(option, value, features)]
    if "token_budget" in setup.given:
        words += ["--ubatch-size", str(config.token_budget), "--batch-size", str(max(2048, config.token_budget))]
    if config.threads is not None:
        words += ["--threads", str(config.threads)]
    words += [flag for flag in ("--no-webui", "--no-ui") if flag in features.flags][:1]
    return [*words, *setup.backend.arguments]


def split_name(mode: SplitMode, features: Features) -> str:
    """The split mode in llama.cpp's words: `row` is its `tensor`, and its `row` in builds for SYCL and in versions that
    lack `tensor`.

    Raises:
        UnsupportedOptionError: this build has neither.
    """
    has_buffers = any(card.name.startswith(ROW_BUFFERS) for card in features.cards)
    wanted = [str(mode)] if mode != SplitMode.ROW else ["row", "tensor"] if has_buffers else ["tensor", "row"]
    listed = [name for name in wanted if name in features.split_modes]
    if not listed:
        raise UnsupportedOptionError(
            f"--split-mode {mode} cannot be had with this llama-server.",
            why=f"It lists {', '.join(features.split_modes) or 'none at all'} ({features.version}).",
            fix="Use another split mode, or another version of llama.cpp.",
        )
    advised = [name for name in listed if name not in features.deprecated_splits]
    return (advised or listed)[0]


def used_cards(setup: Setup, features: Features) -> Sequence[ListedCard]:
    """The cards that compute: those of --devices, and all that the program lists if the user names none; none for a
    processor. Raises UsageError if it does not list one.
    """
    return _cards(setup.engine.devices, features) if "devices" in setup.given else features.cards


def split_of(setup: Setup, cards: Sequence[ListedCard]) -> SplitMode:
    """The split mode asked for; without such a wish, by layer over several cards."""
    if "split_mode" in setup.given or "devices" in setup.given:
        return setup.engine.split_mode
    return SplitMode.LAYER if len(cards) > 1 else SplitMode.NONE


def placement(setup: Setup, features: Features) -> str:
    """Where the model goes, for people: "CUDA0 (RTX 3090) and CUDA1 (RTX 3090), split by layer"."""
    cards = used_cards(setup, features)
    if not cards:
        return "the processor"
    mode = split_of(setup, cards)
    if mode == SplitMode.NONE:
        cards = cards[setup.engine.main_gpu :][:1]
    names = " and ".join(f"{card.name} ({card.what})" for card in cards)
    return names if len(cards) == 1 else f"{names}, split by {split_name(mode, features)}"


def _check_cards(setup: Setup, cards: Sequence[ListedCard]) -> None:
    """Raise UsageError for options about cards that these cards cannot honour."""
    config = setup.engine
    if not cards:
        named = {"tensor_split": "--tensor-split", "main_gpu": "--main-gpu", "gpu_layers": "--n-gpu-layers"}
        refuse_given(
            setup, named, "llamacpp", "It computes on the processor alone.", fix="Leave it out, or name cards."
        )
    elif not 0 <= config.main_gpu < len(cards):
        raise UsageError(f"--main-gpu {config.main_gpu} is none of the cards.", fix=f"Use 0 to {len(cards) - 1}.")
    elif config.tensor_split is not None and len(config.tensor_split) != len(cards):
        raise UsageError(
            f"--tensor-split has {len(config.tensor_split)} shares for {len(cards)} cards.",
            why=f"They are {', '.join(card.name for card in cards)}.",
            fix="Give each card a share, or name other --devices.",
        )


def _cards(devices: Sequence[Device], features: Features) -> list[ListedCard]:
    """The cards that the program lists for these devices; none for a processor."""
    kinds = {device.kind for device in devices}
    if kinds == {"cpu"}:
        if len(devices) > 1:
            raise UnsupportedOptionError(
                "--devices with several CPUs cannot be had with --backend llamacpp.",
                why="llama.cpp splits a model over cards, not over the sockets of a processor.",
                fix="Use --devices cpu:0, or --backend native.",
            )
        return []
    if "cpu" in kinds:
        raise UnsupportedOptionError(
            "--devices with CPUs beside cards cannot be had with --backend llamacpp.",
            fix="Name the cards alone, and leave layers in RAM with --n-gpu-layers 20.",
        )
    found = []
    for device in devices:
        if device.index >= len(features.cards):
            listed = ", ".join(f"{card.name} ({card.what})" for card in features.cards)
            raise UsageError(
                f"llama-server does not see the card {device}.",
                why=f"It lists {listed}." if listed else "It lists no card: it was built for processors, or no driver.",
                fix="Use a build for your cards (CUDA, ROCm or Vulkan), or --devices cpu:0.",
            )
        found.append(features.cards[device.index])
    return found


def _device_flags(setup: Setup, cards: Sequence[ListedCard], features: Features) -> list[str]:
    config = setup.engine
    if not cards:
        return (["--device", "none"] if "--device" in features.flags else []) + ["--n-gpu-layers", "0"]
    words = ["--split-mode", split_name(split_of(setup, cards), features)]
    if "devices" not in setup.given:
        pass  # it takes all cards by itself, and leaves out integrated graphics beside them
    elif "--device" in features.flags:
        words += ["--device", ",".join(card.name for card in cards)]
    elif tuple(cards) != features.cards:
        raise UnsupportedOptionError(
            "--devices with some of the cards cannot be had with this llama-server.",
            why=f"It has no --device, and takes all {len(features.cards)} cards in their order.",
            fix="Hide the others from it (CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES), or use another llama-server.",
        )
    if config.tensor_split is not None:
        words += ["--tensor-split", ",".join(f"{share:g}" for share in config.tensor_split)]
    if "main_gpu" in setup.given:
        words += ["--main-gpu", str(config.main_gpu)]
    if config.gpu_layers is not None:
        words += ["--n-gpu-layers", str(config.gpu_layers)]
    elif not features.auto_layers or "tensor" in words:
        words += ["--n-gpu-layers", "999"]  # more than any model has: all
    if "tensor" in words:
        words += ["--fit", "off"] if "--fit" in features.flags else []  # it refuses to start with both
        words += ["--flash-attn", "on"]  # and without this
    return words


def _context_flags(setup: Setup, cards: Sequence[ListedCard], features: Features, spec: ModelSpec | None) -> list[str]:
    """Flags for the context: Rowspan's --ctx-size is that of one request, llama.cpp's that of all its slots
    together.
    """
    config = setup.engine
    context = config.context_size
    if context is None and spec is not None and spec.context_length:
        context = _affordable_context(setup, cards, spec)
    if context is None:
        return ["--ctx-size", "0"]
    own = ["--no-kv-unified"] if "--no-kv-unified" in features.flags else []  # each slot has its share, always
    return ["--ctx-size", str(context * config.parallel), *own]


def _affordable_context(setup: Setup, cards: Sequence[ListedCard], spec: ModelSpec) -> int:
    """The context for every slot: the model's, as far as memory lasts, since llama.cpp allocates all of it at once."""
    config = setup.engine
    position = model_position_bytes(spec, (_cache_dtype(config.cache_type_k), _cache_dtype(config.cache_type_v)))
    if cards and any(card.free is None for card in cards):
        return spec.context_length
    free = sum(card.free or 0 for card in cards) if cards else psutil.virtual_memory().available
    left = max(0, free - os.path.getsize(Path(setup.model.location))) * CACHE_SHARE
    affordable = int(left / (position * config.parallel)) // 256 * 256
    return min(spec.context_length, max(LEAST_CONTEXT, affordable))


def _cache_dtype(option: str | None) -> str:
    """The cache type to compute sizes with; float16, llama.cpp's default, in place of types that only newer versions
    have.
    """
    kind = cache_type_for(option or "f16", CacheKernels.LLAMACPP)
    return kind.dtype if kind is not None else "float16"


def _cache_type(option: str, value: str, features: Features) -> str:
    if features.cache_types and value not in features.cache_types:
        raise UnsupportedOptionError(
            f"{option} {value} cannot be had with --backend llamacpp.",
            why=f"This llama-server lists {', '.join(features.cache_types)}.",
            fix="Choose one of these.",
        )
    return value
