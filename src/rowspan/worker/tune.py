"""Times the tiles of Triton's linear for the matrices of some models, on cards. A program of its own, since neither the
command line nor the benchmark that start it import torch:

    python -m rowspan.worker.tune cuda:0 bfloat16 512 60 model.gguf…

The dtype of activations, the most tokens of a step and the seconds it may take follow the devices. What it finds is
kept where the engine looks for it. Each line says what was found, the last one how far it came. An error that the user
can mend is one line of JSON on stderr.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rowspan.checkpoint.gguf import GgufCheckpoint
from rowspan.checkpoint.tensor_names import Role, TensorKey
from rowspan.errors import RowspanError, UsageError
from rowspan.kernels.torch.open_card import open_card
from rowspan.kernels.triton.card_family import card_of
from rowspan.kernels.triton.linear.join import join
from rowspan.kernels.triton.linear.layout import PlanarWeight
from rowspan.kernels.triton.linear.pack import pack
from rowspan.kernels.triton.linear.tuning import tune
from rowspan.model.open_checkpoint import open_checkpoint
from rowspan.plan.device import parse_devices

# Tokens of steps, what matters most first: a lone request, its prompt (the most there are), and requests at once.
WIDTHS = (1, 64, 512, 16, 8, 4, 2, 32, 128, 256, 1024)
TOGETHER = ((Role.Q, Role.K, Role.V), (Role.GATE, Role.UP), (Role.O,), (Role.DOWN,))  # of a layer, one product each

Product = tuple[TensorKey, ...]  # matrices that may be one


def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    names, dtype, tokens, seconds, *paths = sys.argv[1:]
    try:
        checkpoints = [open_checkpoint(Path(path)) for path in paths]
        print(tune_models(different_cards(names), getattr(torch, dtype), int(tokens), float(seconds), checkpoints))
    except RowspanError as error:
        print(json.dumps({"what": error.what, "why": error.why, "fix": error.fix}), file=sys.stderr)
        sys.exit(error.exit_code)


def different_cards(names: str) -> list[torch.device]:
    """The cards to tune: one of each name, since a result is used on all cards of its name.

    Raises:
        UsageError: a device is no card, or does not exist.
    """
    cards: dict[str, torch.device] = {}
    for device in parse_devices(names):
        if device.kind == "cpu":
            raise UsageError(f"{device} is not tuned.", why="Only Triton's kernels are, and they run on cards.")
        card = open_card(device)
        cards.setdefault(card_of(card).name, card)
    return list(cards.values())


def tune_models(
    devices: Sequence[torch.device],
    dtype: torch.dtype,
    most_tokens: int,
    seconds: float,
    checkpoints: Sequence[GgufCheckpoint],
) -> str:
    """Tune until the time is over, and return a sentence that says how far it came."""
    deadline = time.monotonic() + seconds
    products = distinct(checkpoints)
    tasks = [
        (tokens, device, checkpoint, product)
        for tokens in widths(most_tokens)  # of all matrices before the next, so that no model is left behind
        for device in devices
        for checkpoint, product in products
    ]
    done = 0
    for tokens, device, checkpoint, product in tasks:
        if time.monotonic() > deadline:
            break
        for weight in weights(checkpoint, product, device, dtype):
            config = tune(weight, tokens, dtype)
            print(f"{weight.scheme} {weight.rows} × {weight.columns}, {tokens} tokens: {config}", flush=True)
        done += 1
    return f"{done} of {len(tasks)} products of up to {most_tokens} tokens"


def widths(most_tokens: int) -> list[int]:
    """Numbers of tokens to tune for, the most important first."""
    fewer = [width for width in WIDTHS if width < most_tokens]
    return [*fewer[:1], most_tokens, *fewer[1:]]


def distinct(checkpoints: Sequence[GgufCheckpoint]) -> list[tuple[GgufCheckpoint, Product]]:
    """One product of each shape and scheme; largest first, since they take most of a step."""
    found: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[int, GgufCheckpoint, Product]] = {}
    for checkpoint in checkpoints:
        tensors = checkpoint.tensors
        for product in products_of(checkpoint):
            infos = [tensors[key] for key in product]
            kind = tuple((info.scheme, info.shape) for info in infos)
            found.setdefault(kind, (sum(info.nbytes for info in infos), checkpoint, product))
    ordered = sorted(found.values(), key=lambda one: -one[0])
    return [(checkpoint, product) for _, checkpoint, product in ordered]


def products_of(checkpoint: GgufCheckpoint) -> Iterator[Product]:
    head = TensorKey(Role.HEAD)
    yield (head if head in checkpoint.tensors else TensorKey(Role.EMBEDDING),)
    for layer in sorted({key.layer for key in checkpoint.tensors if key.layer is not None}):
        for roles in TOGETHER:
            keys = (TensorKey(role, layer) for role in roles)
            if present := tuple(key for key in keys if key in checkpoint.tensors):
                yield present


def weights(
    checkpoint: GgufCheckpoint, product: Product, device: torch.device, dtype: torch.dtype
) -> list[PlanarWeight]:
    """On the device, as the engine has them: one, or where they are not held alike several. Without dense ones."""
    parts = [
        pack(checkpoint.tensors[key].scheme, torch.from_numpy(checkpoint.read(key).blocks.copy()).to(device), dtype)
        for key in product
    ]
    whole = join(parts) if len(parts) > 1 else None
    return [weight for weight in (parts if whole is None else [whole]) if isinstance(weight, PlanarWeight)]


if __name__ == "__main__":
    main()
